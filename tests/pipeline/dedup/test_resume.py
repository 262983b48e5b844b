"""A run that is broken off in any step and started again publishes the same bytes."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.execution.base import Executor, UnitOutcome, UnitTask
from infra.execution.local import LocalExecutor
from infra.launch.local import LocalLauncher
from infra.progress import PlainReporter
from infra.runner import run_stage
from infra.runs import RunRecord
from infra.stage import StageNode, Unit
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from pipeline.dedup import STAGE, DedupConfig
from tests.pipeline.dedup.corpora import document, edited, publish, sentence_words
from tests.support import REPOSITORY, InProcessExecutor

CONFIG = DedupConfig(block_documents=5)
"""More blocks than any step handles in one unit."""


class BrokenOff(BaseException):
    """Stands for a crash: nothing handles it."""


@dataclass
class Breaking:
    """Works like the in-process executor and dies after the first unit of one step."""

    step: str

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        for outcome in InProcessExecutor().run(task, units):
            yield outcome
            if task.step == self.step:
                raise BrokenOff


def run(home: Path, source: Dataset, executor: Executor, config: DedupConfig = CONFIG) -> Dataset:
    store = Store.at(home)
    context = RunContext(
        store=store,
        record=RunRecord.start(store, "test"),
        label="test",
        executor=executor,
        launcher=LocalLauncher(),
        reporter=PlainReporter(every_s=3600.0),
    )
    return run_stage(StageNode(STAGE, config), {"quality": source}, context).dataset


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = random.Random(4)
    rows = []
    for i in range(80):
        words = sentence_words(rng, 100)
        rows.append(document(f"o{i}", " ".join(words), quality=rng.random(), url=f"https://x.org/{i % 70}"))
        if i % 3 == 0:
            rows.append(document(f"n{i}", " ".join(edited(rng, words, 1)), quality=rng.random()))
            rows.append(document(f"e{i}", "\n".join(words), quality=rng.random()))
    rng.shuffle(rows)
    return publish(tmp_path_factory.mktemp("source"), {"web/a": rows[:60], "web/b": rows[60:]})


def test_broken_off_in_every_step_the_bytes_are_the_same(tmp_path: Path, source: Dataset) -> None:
    whole = run(tmp_path / "whole", source, InProcessExecutor())
    for step in ("sign", "urls", "copies", "bands", "nominate", "verify", "settle-00", "fates", "select"):
        with pytest.raises(BrokenOff):
            run(tmp_path / "broken", source, Breaking(step))
    again = run(tmp_path / "broken", source, InProcessExecutor())
    assert [(f.path, f.digest) for f in again.files("")] == [(f.path, f.digest) for f in whole.files("")]


STEPS = ("sign", "urls", "copies", "bands", "nominate", "verify", "settle-00", "fates", "spans", "repeats", "select")


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [5, 20, 65_536], ids=["many blocks", "some", "few"])
def test_killed_in_every_step_the_bytes_are_the_same(tmp_path: Path, source: Dataset, blocks: int) -> None:
    """The whole process is killed as soon as a step has left its first file; the next one goes on from there."""
    config = DedupConfig(block_documents=blocks, repeats="line", repeat_documents=2)
    whole = run(tmp_path / "whole", source, InProcessExecutor(), config)
    command = [sys.executable, "-m", "tests.benchmarks.dedup_parts.ours", source.root, str(tmp_path / "killed")]
    command.append(config.model_dump_json())
    killed = 0
    for step in STEPS:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached(tmp_path / "killed", step):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= len(STEPS) - 1, "but for the last step, which may be over before it is seen"
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    again = Dataset.open(str(next((tmp_path / "killed" / "datasets" / "dedup").glob("*/manifest.json")).parent))
    assert [(f.path, f.digest) for f in again.files("")] == [(f.path, f.digest) for f in whole.files("")]


def reached(home: Path, step: str) -> bool:
    """Whether a step has written anything; the last one writes the dataset itself."""
    pattern = "datasets/dedup/*/data/web/*" if step == "select" else f"work/dedup/*/steps/{step}/**/*.*"
    return any(home.glob(pattern))


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path, source: Dataset) -> None:
    files = [
        [(f.path, f.digest) for f in run(tmp_path / str(workers), source, LocalExecutor(workers)).files("")]
        for workers in (1, 2, 3)
    ]
    assert files[0] == files[1] == files[2]
    assert any(path.startswith("index/") for path, _ in files[0])
