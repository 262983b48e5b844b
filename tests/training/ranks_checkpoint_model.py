"""Run under torchrun by test_checkpoint_model: is the model that is published, and the one read from a checkpoint, the one that
was being trained? And how much of it does a rank hold meanwhile?"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from infra.job import JobRequest
from infra.job_main import leave
from tests.training.folders import write_tokenizer
from training.checkpoint import Checkpoints
from training.checkpoint_list import list_checkpoints
from training.checkpoint_model import checkpoint_weights
from training.create_engine import create_engine
from training.hub_format import load_model, save_model
from training.job import Job, JobConfig, StopSignal
from training.loader import MicroBatch
from training.loop import publish_model
from training.model import ModelConfig
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks, distributed
from training.schedule import ScheduleConfig
from training.validation import summed_loss
from training.weights import Weights

# Odd sizes: pieces of a weight must be filled up before three ranks can share them.
SHAPE = ModelConfig(
    vocab_size=131, hidden_size=36, layers=12, heads=3, kv_heads=1, intermediate_size=50, tie_embeddings=False
)

EVEN = SHAPE.model_copy(update={"vocab_size": 132, "heads": 6, "kv_heads": 2})
LARGEST = 132 * 36
"""Numbers in the largest weight; all together have 25 times as many."""


class Held(TorchDispatchMode):
    """The most bytes at once in tensors that were made under its eyes."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._there: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in _plain((arguments, named))}
        result = operation(*arguments, **(named or {}))
        for storage in (tensor.untyped_storage() for tensor in _plain(result)):
            if storage._cdata not in given:
                self._there[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._there = {key: entry for key, entry in self._there.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._there.values()))
        return result


def _plain(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if type(each) in (Tensor, nn.Parameter) and each.device.type != "meta"]


def batches(parallel: ParallelConfig, row_share: int, part: int) -> list[MicroBatch]:
    tokens = torch.randint(0, 131, (2, 17), generator=torch.Generator().manual_seed(row_share))
    mine = slice(part * 16 // parallel.context, (part + 1) * 16 // parallel.context)
    inputs, targets, positions = (each[:, mine] for each in (tokens[:, :-1], tokens[:, 1:], torch.arange(16)[None]))
    rows = [slice(0, 1), slice(1, 2)] if parallel.pipeline > 1 else [slice(0, 2)]
    return [
        MicroBatch(
            inputs[row], targets[row], torch.ones_like(targets[row]), None, float(targets[row].numel()), positions
        )
        for row in rows
    ]


def differing(ranks: Ranks, folder: Path, stage: int, dtype: str, **more: Any) -> tuple[list[str], float] | None:
    """Names of weights that differ between the published model and the checkpoint's, and the most that a rank held at once while
    it was published, in sizes of the largest weight. None on all ranks but the first."""
    parallel = ParallelConfig(zero_stage=stage, dtype=dtype, micro_batch=2, **more)  # type: ignore[arg-type]
    optimizer = OptimizerConfig(lr=0.01, schedule=ScheduleConfig(warmup_steps=0))
    shape = EVEN if parallel.tensor * parallel.context > 1 else SHAPE
    engine = create_engine(Weights.fresh(shape, 0).deferred(), optimizer, parallel, total_steps=4, ranks=ranks)
    mine = batches(parallel, engine.mesh.row_share(ranks.rank), engine.mesh.part(ranks.rank))
    for _ in range(3):
        engine.train_step(
            mine, lambda model, batch: summed_loss(model, batch, 0.0, engine.context), lambda part: part.tokens
        )
    Checkpoints(engine, folder, print).save({}, wait=True)
    job = Job(JobRequest("pretrain", "0" * 12, {}, {}, folder / "dataset", folder), JobConfig(), ranks, StopSignal())
    if ranks.first:
        write_tokenizer(folder / "tokenizer")
    with Held() as held:
        publish_model(job, engine, folder / "tokenizer")
    most = torch.tensor(float(held.most))
    dist.all_reduce(most, dist.ReduceOp.MAX)
    if not ranks.first:
        return None
    ((_, path),) = list_checkpoints(folder)
    weights, found = checkpoint_weights(path), load_model(job.request.data_dir / "model")
    expected = {name: weights.read(name) for name in weights.shapes()}
    different = [name for name, weight in found.state_dict().items() if not torch.equal(weight, expected[name])]
    found.load_state_dict(expected)
    save_model(found, folder / "whole", folder / "tokenizer")
    for file in (folder / "whole").iterdir() if not different else ():
        assert file.read_bytes() == (job.request.data_dir / "model" / file.name).read_bytes(), file.name
    return different, most.item() / (LARGEST * engine.precision.itemsize)


def main() -> None:
    torch.set_num_threads(1)
    with distributed() as ranks:
        cases = [(stage, {"engine": engine}) for engine in ("deepspeed", "torch") for stage in (1, 2, 3)]
        if ranks.world_size == 2:
            axes = ("tensor", "pipeline", "context", "replicate")
            cases += [(stage, {"engine": "torch", axis: 2}) for axis in axes for stage in (1, 3)]
        answers = [
            differing(ranks, Path(sys.argv[1]) / f"{number}", stage, "bf16", **more)
            for number, (stage, more) in enumerate(cases)
        ]
        if ranks.first:
            print("ANSWER " + json.dumps(answers))


if __name__ == "__main__":
    main()
    leave()
