"""Run under torchrun by test_checkpoint: saves half-way, resumes in fresh engines, prints both continuations as JSON.

``save FOLDER {name: [[stage, dtype, optimizer, parallel], …]}`` trains 8 steps, saving in FOLDER/name after 4 and failing to
save after 8, and resumes at 4. ``resume FOLDER {name: [[saved stage, dtype, optimizer, new stage, parallel], …]}`` resumes what
``save`` left there, at any number of ranks. ``parallel`` are further settings.
"""

import contextlib
import json
import resource
import sys
from pathlib import Path

import torch

from infra.job_main import leave
from tests.training.ranks_engine import advance, build
from training.checkpoint import Checkpoints
from training.ranks import distributed


@contextlib.contextmanager
def small_files_only(active):
    if active:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def save(ranks, folder, stage, dtype, optimizer, **parallel):
    engine = build(ranks, stage, dtype, 2, steps=8, optimizer=optimizer, **parallel)
    before = advance(engine, 4, 2)
    torch.manual_seed(100 + ranks.rank)
    warnings = []
    saved = Checkpoints(engine, folder / f"{stage}-{dtype}-{optimizer}", warn=warnings.append)
    saved.save({"consumed": 32}, {"carry": torch.arange(3) + ranks.rank})
    after = advance(engine, 8, 2)  # trains on while the files are being written
    expected_noise = torch.rand(1).item()
    saved.wait()
    with small_files_only(ranks.rank == ranks.world_size - 1):  # stands for a disk that is full on one machine
        saved.save({"consumed": 64}, wait=True)

    torch.rand(7)
    resumed = build(ranks, stage, dtype, 2, steps=8, optimizer=optimizer, **parallel)
    loaded = Checkpoints(resumed, folder / f"{stage}-{dtype}-{optimizer}", warn=warnings.append).load_newest()
    trail = advance(resumed, 8, 2)
    return {
        "warnings": warnings,
        "before": before,
        "after": after,
        "resumed": trail,
        "consumed": loaded.state["consumed"],
        "carry": loaded.rank_state["carry"].tolist() == [ranks.rank, ranks.rank + 1, ranks.rank + 2],
        "exact": loaded.exact,
        "noise": torch.rand(1).item() == expected_noise,
    }


def resume(ranks, folder, stage, dtype, optimizer, new_stage, **parallel):
    engine = build(ranks, new_stage, dtype, 2, steps=8, optimizer=optimizer, **parallel)
    loaded = Checkpoints(engine, folder / f"{stage}-{dtype}-{optimizer}", warn=print).load_newest()
    trail = advance(engine, 6, 2)
    again = Checkpoints(engine, folder / f"{stage}-{dtype}-{optimizer}-{new_stage}-again", warn=print)
    again.save({"consumed": 48}, wait=True)  # a checkpoint made after a universal one must be whole, too
    reopened = build(ranks, new_stage, dtype, 2, steps=8, optimizer=optimizer, **parallel)
    Checkpoints(reopened, again.folder, warn=print).load_newest()
    return {"resumed": trail + advance(reopened, 8, 2), "exact": loaded.exact, "step": loaded.step}


def main() -> None:
    torch.set_num_threads(1)
    command, folder, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    with distributed() as ranks:
        work = {"save": save, "resume": resume}[command]
        answers = {
            name: [work(ranks, folder / name, *case, **parallel) for *case, parallel in some]
            for name, some in cases.items()
        }
        if ranks.first:
            print("ANSWER " + json.dumps(answers))


if __name__ == "__main__":
    main()
    leave()
