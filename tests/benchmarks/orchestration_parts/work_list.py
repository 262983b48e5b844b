"""A work list of many units: how long until a run hands out its first unit, new and resumed, and with how much memory.

    python -m tests.benchmarks.orchestration_parts.work_list make  FOLDER 90000     archives, and a recipe that reads them
    python -m tests.benchmarks.orchestration_parts.work_list first FOLDER           plan, freeze the list, hand out one unit
    python -m tests.benchmarks.orchestration_parts.work_list done  FOLDER           all but ten units as a killed run left them

The archives are files of a few bytes: what is measured is everything around the work. ``first`` is a whole run of the real
``ingest`` stage (recipe, fingerprint, lease, list, journal), with an executor that stops at the first unit it is handed.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flows.context import run_context
from flows.execute import run_recipe
from flows.recipe import Recipe, load_recipe
from infra.execution.base import UnitOutcome, UnitTask
from infra.journal import Journal
from infra.planning import StageSelection
from infra.progress import PlainReporter
from infra.runs import RunRecord
from infra.stage import Counts, Receipt, Unit
from infra.store.files import OutputFile
from infra.store.store import Store

LEFT = 10
JOURNALS = 16
"""As many workers wrote the receipts."""


class FirstUnit(Exception):
    """The run got as far as its first unit."""


class StopAtFirst:
    """An executor that takes the list and stops."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.task: UnitTask | None = None

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        self.task, self.units = task, list(units)
        raise FirstUnit
        yield  # a generator, as executors are


def make(folder: Path, number: int) -> dict[str, Any]:
    archives = folder / "archives"
    archives.mkdir(parents=True)
    for index in range(number):
        (archives / f"CC-MAIN-20261101000000-{index:05d}.warc.gz").write_bytes(b"simulated %d" % index)
    (folder / "many.yaml").write_text(
        f"recipe: many\nstages:\n  ingest:\n    sources: [{{name: crawl, kind: warc, address: {archives}}}]\n"
        "    extract: {languages: []}\n"
    )
    return {"archives": number}


def first(folder: Path) -> dict[str, Any]:
    """Run until the first unit is handed out."""
    executor = _run_to_first(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"handed_out": len(executor.units), "peak_gb": peak / 1e9, "seconds_from_start": _since_start()}


def done(folder: Path) -> dict[str, Any]:
    """Write the receipts and outputs of all units but a few, unsynced: the state that a killed run leaves."""
    executor = _run_to_first(folder)
    assert executor.task is not None
    task = executor.task
    finished = executor.units[:-LEFT]
    for name in ("data/crawl", "ledger/crawl"):
        Path(task.dataset_root, name).mkdir(parents=True)
    journals = [Journal(Path(task.journal)) for _ in range(JOURNALS)]
    for index, unit in enumerate(finished):
        outputs = []
        for path in (f"data/crawl/{unit.id}.parquet", f"ledger/crawl/{unit.id}.parquet"):
            Path(task.dataset_root, path).write_bytes(b"x")
            outputs.append(OutputFile(path, 1, f"{index:064x}", 100))
        receipt = Receipt(unit.id, task.step, tuple(outputs), Counts(200, 100, {"language": 60, "no_text": 40}))
        with patch("os.fsync"):
            journals[index % JOURNALS].append(receipt)
    return {"receipts": len(finished)}


def _run_to_first(folder: Path) -> StopAtFirst:
    recipe: Recipe = load_recipe(str(folder / "many.yaml"))
    store = Store.at(folder / "workspace")
    executor = StopAtFirst()
    context = run_context(recipe, store, RunRecord.start(store, recipe.name), PlainReporter())
    try:
        run_recipe(recipe, StageSelection(), replace(context, executor=executor))
    except FirstUnit:
        return executor
    raise AssertionError("the run ended without handing out a unit")


def _since_start() -> float:
    """Seconds since this process was started, so that imports count."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    command, folder, *rest = sys.argv[1:]
    began = time.perf_counter()
    if command == "make":
        result = make(Path(folder), int(rest[0]))
    else:
        result = {"first": first, "done": done}[command](Path(folder))
    print(json.dumps({**result, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
