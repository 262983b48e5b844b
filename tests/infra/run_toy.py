"""Runs the toy stages in a workspace: ``python -m tests.infra.run_toy WORKSPACE [seconds a unit]``. Made to be killed."""

import sys
from collections.abc import Mapping
from pathlib import Path

from infra.execution.local import LocalExecutor
from infra.labels import move_labels
from infra.launch.local import LocalLauncher
from infra.progress import PlainReporter
from infra.runner import StageOutcome, run_stage
from infra.runs import RunRecord
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from tests.infra.toy import NUMBERS, SQUARES, NumbersConfig, SquaresConfig


def context(home: str | Path, workers: int = 2, max_failed_fraction: float = 0.0) -> RunContext:
    store = Store.at(home)
    return RunContext(
        store=store,
        record=RunRecord.start(store, "toy"),
        label="toy",
        executor=LocalExecutor(workers=workers),
        launcher=LocalLauncher(),
        reporter=PlainReporter(every_s=0.0),
        max_failed_fraction=max_failed_fraction,
    )


def run_both(
    run: RunContext, numbers: NumbersConfig | None = None, squares: SquaresConfig | None = None
) -> Mapping[str, StageOutcome]:
    first = run_stage(StageNode(NUMBERS, numbers or NumbersConfig()), {}, run)
    inputs: Mapping[str, Dataset] = {"numbers": first.dataset}
    second = run_stage(StageNode(SQUARES, squares or SquaresConfig()), inputs, run)
    made = {"numbers": first.dataset, "squares": second.dataset}
    move_labels(run.store, run.label, made, tuple(made), whole=True)
    return {"numbers": first, "squares": second}


if __name__ == "__main__":
    pause = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    done = run_both(context(sys.argv[1]), NumbersConfig(seconds_a_unit=pause), SquaresConfig(seconds_a_unit=pause))
    sys.stdout.write("\n".join(outcome.dataset.digest for outcome in done.values()) + "\n")
