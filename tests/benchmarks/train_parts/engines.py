"""Our two engines at two ranks: the same model, batches, precision and optimizer.

Both live in the same two processes and take a step in turn, so that what is compared was measured within seconds of each
other. Run under torchrun with a JSON of turns and cases; prints ``ANSWER`` and a row a case, turn and engine.
"""

import json
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from infra.job_main import leave
from training.create_engine import create_engine
from training.engine import Engine
from training.loader import MicroBatch
from training.model import ModelConfig, build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks, distributed
from training.validation import summed_loss

ENGINES = ("deepspeed", "torch")
SEQ_LEN = 256


def compare(ranks: Ranks, case: dict[str, Any], turns: int) -> list[dict[str, Any]]:
    shape, micro, share = ModelConfig(**case["model"]), case["micro"], case["batch"] // ranks.world_size
    engines = {}
    for name in ENGINES:
        parallel = ParallelConfig.model_validate({"engine": name, "dtype": case["dtype"], "micro_batch": micro})
        model = build_model(shape, 0, device=ranks.device)
        engines[name] = create_engine(model, OptimizerConfig(lr=1e-4), parallel, total_steps=10 * turns, ranks=ranks)
    rows = []
    for turn in range(1 + turns):  # the first one warms up
        batches = [_batch(shape, micro, ranks, turn * share + start) for start in range(0, share, micro)]
        for name in ENGINES[turn % 2 :] + ENGINES[: turn % 2]:
            wall, processor = _step(engines[name], batches)
            tokens = case["batch"] * SEQ_LEN
            speeds = {"tokens_per_s": tokens / wall, "tokens_per_cpu_s": tokens / processor}
            rows.append({"case": case["name"], "contender": name, "turn": turn} | speeds)
    return [row for row in rows if row["turn"]]


def _step(engine: Engine, batches: list[MicroBatch]) -> tuple[float, float]:
    """Seconds on the clock and of the processor, of all ranks."""
    dist.barrier()
    began, processor = time.perf_counter(), time.process_time()
    engine.train_step(batches, summed_loss, lambda batch: batch.tokens)
    dist.barrier()
    spent = torch.tensor(time.process_time() - processor)
    dist.all_reduce(spent)
    return time.perf_counter() - began, float(spent)


def _batch(shape: ModelConfig, rows: int, ranks: Ranks, seed: int) -> MicroBatch:
    generator = torch.Generator().manual_seed(seed * ranks.world_size + ranks.rank)
    tokens = torch.randint(0, shape.vocab_size, (rows, SEQ_LEN + 1), generator=generator)
    mask = torch.ones(rows, SEQ_LEN)
    return MicroBatch(tokens[:, :-1], tokens[:, 1:], mask, None, float(mask.sum()))


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    with distributed() as ranks:
        rows = [row for case in asked["cases"] for row in compare(ranks, case, asked["turns"])]
        if ranks.first:
            print("ANSWER " + json.dumps(rows))


if __name__ == "__main__":
    main()
    leave()
