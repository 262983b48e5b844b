"""Run under torchrun by test_deferred: has every rank the weights that it should have, and how much of the model did it hold
while they were read?"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from infra.job_main import leave
from tests.training.ranks_checkpoint_model import EVEN, LARGEST, SHAPE, Held
from training.create_engine import create_engine
from training.engine import Engine
from training.hub_format import open_weights
from training.model import build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks, distributed
from training.weights import Weights


def built(ranks: Ranks, folder: Path | None = None, **how: Any) -> tuple[list[str], float]:
    """Names of weights that are not those of a model that is built whole; and the most that a rank held until the last weight
    was read, beyond its own part, in sizes of the largest weight. From a model folder, or fresh."""
    parallel = ParallelConfig(**{"engine": "torch", "zero_stage": 3, "dtype": "fp32", "micro_batch": 1} | how)
    shape = EVEN if parallel.tensor * parallel.context > 1 else SHAPE
    weights = open_weights(folder, torch.float32) if folder else Weights.fresh(shape, 0)
    seen = []

    def read(name: str) -> Tensor:
        seen.append(held.most)
        return weights.read(name)

    with Held() as held:
        engine = create_engine(
            replace(weights, read=read).deferred(), OptimizerConfig(), parallel, total_steps=1, ranks=ranks
        )
    expected = build_model(shape, 0).state_dict()
    different = [name for name, found in whole_weights(engine) if not torch.equal(found, expected[name])]
    most = torch.tensor((seen[-1] - own_bytes(engine)) / 4 / LARGEST)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    everyone: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(everyone, different)
    return sorted({name for names in everyone for name in names}), most.item()


def whole_weights(engine: Engine) -> list[tuple[str, Tensor]]:
    if engine.parallel.engine == "deepspeed":
        return [(name, engine.weight(name)) for name in engine.shapes()]
    # As torch puts them together, of what it thinks lies where.
    return [(name.removeprefix("model."), each.full_tensor()) for name, each in engine.runtime.weights.items()]


def own_bytes(engine: Engine) -> float:
    if engine.parallel.engine == "deepspeed":
        return sum(shape.numel() for shape in engine.shapes().values()) * 4 / engine.ranks.world_size
    return float(sum(each.to_local().nbytes for each in engine.runtime.weights.values()))


def main() -> None:
    torch.set_num_threads(1)
    with distributed() as ranks:
        folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
        answers = {name: built(ranks, folder if "folder" in name else None, **how) for name, how in cases.items()}
        if ranks.first:
            print("ANSWER " + json.dumps(answers))


if __name__ == "__main__":
    main()
    leave()
