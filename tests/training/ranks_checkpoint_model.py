"""Run under torchrun by test_checkpoint_model: is the model read from a checkpoint the one that was being trained?"""

import json
import sys
from pathlib import Path

import torch

from infra.job_main import leave
from training.checkpoint import Checkpoints, list_checkpoints
from training.checkpoint_model import checkpoint_weights
from training.create_engine import create_engine
from training.loader import MicroBatch
from training.model import ModelConfig
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import distributed
from training.schedule import ScheduleConfig
from training.sharded import build_for_engine
from training.validation import summed_loss

# Odd sizes: pieces of a weight must be filled up before three ranks can share them.
SHAPE = ModelConfig(
    vocab_size=131, hidden_size=36, layers=2, heads=3, kv_heads=1, intermediate_size=50, tie_embeddings=False
)

EVEN = SHAPE.model_copy(update={"vocab_size": 132, "heads": 6, "kv_heads": 2})


def batch(rank: int) -> MicroBatch:
    tokens = torch.randint(0, 131, (2, 17), generator=torch.Generator().manual_seed(rank))
    return MicroBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 16), None, 32.0)


def differing(ranks, folder: Path, stage: int, dtype: str, **more) -> list[str] | None:
    """Names of weights that differ between the engine and its checkpoint; None on all ranks but the first."""
    parallel = ParallelConfig(zero_stage=stage, dtype=dtype, micro_batch=2, **more)
    optimizer = OptimizerConfig(lr=0.01, schedule=ScheduleConfig(warmup_steps=0))
    model = build_for_engine(EVEN if parallel.tensor > 1 else SHAPE, 0, optimizer, parallel, ranks)
    engine = create_engine(model, optimizer, parallel, total_steps=4, ranks=ranks)
    for _ in range(3):
        engine.train_step([batch(engine.mesh.row_share(ranks.rank))], summed_loss, lambda part: part.tokens)
    Checkpoints(engine, folder, print).save({}, wait=True)
    with engine.whole_model() as whole:
        if not ranks.first:
            return None
        ((_, path),) = list_checkpoints(folder)
        weights, expected = checkpoint_weights(path), whole.state_dict()
        assert weights.shapes().keys() == expected.keys()
        return [name for name, weight in expected.items() if not torch.equal(weight, weights.read(name))]


def main() -> None:
    torch.set_num_threads(1)
    with distributed() as ranks:
        cases = [(stage, {"engine": engine}) for engine in ("deepspeed", "torch") for stage in (1, 2, 3)]
        if ranks.world_size == 2:
            cases += [(stage, {"engine": "torch", "tensor": 2}) for stage in (1, 3)]
        answers = [
            differing(ranks, Path(sys.argv[1]) / f"{number}", stage, "bf16", **more)
            for number, (stage, more) in enumerate(cases)
        ]
        if ranks.first:
            print("ANSWER " + json.dumps(answers))


if __name__ == "__main__":
    main()
    leave()
