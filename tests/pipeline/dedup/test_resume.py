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

from infra.execution.base import UnitOutcome, UnitTask
from infra.execution.local import InProcessExecutor
from infra.launch.local import LocalLauncher
from infra.planning import StageNode
from infra.progress import PlainReporter
from infra.runner import RunContext, run_stage
from infra.runs import RunRecord
from infra.stage import Unit
from infra.store.dataset import Dataset
from infra.store.store import Store
from pipeline.dedup import STAGE, DedupConfig
from tests.pipeline.dedup.corpora import document, edited, publish, sentence_words
from tests.support import REPOSITORY

CONFIG = DedupConfig(block_documents=20)


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


def run(home: Path, source: Dataset, executor: Breaking | InProcessExecutor, config: DedupConfig = CONFIG) -> Dataset:
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


@pytest.mark.slow
def test_killed_again_and_again_the_bytes_are_the_same(tmp_path: Path, source: Dataset) -> None:
    whole = run(tmp_path / "whole", source, InProcessExecutor())
    command = [sys.executable, "-m", "tests.benchmarks.dedup_parts.ours", source.root, str(tmp_path / "killed")]
    config = CONFIG.model_dump_json()
    for seconds in (3, 5, 7, 9):
        process = subprocess.Popen([*command, config], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, config], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    killed = Dataset.open(str(next((tmp_path / "killed" / "datasets" / "dedup").glob("*/manifest.json")).parent))
    assert killed.digest == whole.digest
