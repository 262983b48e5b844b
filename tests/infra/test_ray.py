"""Units on a Ray cluster: the same bytes as here, whatever happens to its nodes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.errors import ConfigError, HeadwaterError
from infra.execution.base import Executor, UnitOutcome, UnitTask
from infra.execution.local import LocalExecutor
from infra.execution.ray import RayExecutor, own_scratch
from infra.execution.ray_settings import RaySettings
from infra.journal import read_receipts
from infra.stage import Unit
from tests.infra.run_toy import context, run_both
from tests.infra.test_execution import digests, run, task, unit
from tests.infra.toy import NumbersConfig, SquaresConfig
from tests.support import REPOSITORY, InProcessExecutor

QUICK_HEALTH = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one core each."""
    pytest.importorskip("ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20, "_system_config": QUICK_HEALTH}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def on(cluster: Any, **settings: Any) -> RayExecutor:
    address = RaySettings(address=cluster.address)
    return RayExecutor(**{"settings": address, "backoff_s": 0.05, **settings})


# ---- without a cluster ----------------------------------------------------------------------------------------------


def test_without_ray_the_user_reads_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"not installed here\. Install it with pip install 'headwater\[ray\]'"):
        run(RayExecutor(), tmp_path, [unit("a")])


def test_the_client_protocol_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="client protocol"):
        run(RayExecutor(settings=RaySettings(address="ray://head:10001")), tmp_path, [unit("a")])


def test_scratch_of_dead_processes_is_removed_and_of_living_ones_kept(tmp_path: Path) -> None:
    mine = own_scratch(tmp_path)
    dead = tmp_path / mine.name.replace(f"-{os.getpid()}-", "-999999999-")
    foreign = tmp_path / "another-host-1-1"
    for folder in (mine, dead, foreign):
        folder.mkdir()
    assert own_scratch(tmp_path) == mine
    assert mine.exists()
    assert foreign.exists()
    assert not dead.exists()


# ---- two nodes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_nodes_publish_the_bytes_of_one_machine(tmp_path: Path, cluster: Any) -> None:
    units = [unit(f"u{number:02}", text=f"text {number}") for number in range(8)]
    hazards = [unit("dies", "crash once"), unit("net", "network once"), unit("bad", "input")]
    here = run(InProcessExecutor(), tmp_path / "here", units)
    there = run(on(cluster), tmp_path / "there", [*units, *hazards])
    assert {name: outcome.attempts for name, outcome in there.items()} == {
        **dict.fromkeys(here, 1), "dies": 2, "net": 2, "bad": 1
    }  # fmt: skip
    assert there["bad"].error == "the archive is empty (x.warc.gz)."
    written = digests(tmp_path / "there")
    assert {name: written[name] for name in digests(tmp_path / "here")} == digests(tmp_path / "here")
    receipts = {key for (_, key) in read_receipts(tmp_path / "there/journal")}
    assert receipts == {name for name, outcome in there.items() if outcome.receipt}


@pytest.mark.slow
def test_limits_hold_on_the_nodes(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [
        unit("documents", "documents", stuck=[2], crash=[5], slow=[7]),
        unit("slow", "sleep", seconds=60),
        unit("hungry", "memory", bytes=700 << 20),
        unit("bad", "crash"),
    ]
    outcomes = run(on(cluster, memory_bytes=256 << 20, unit_timeout_s=8), tmp_path, units)
    documents = outcomes["documents"].receipt
    assert documents is not None
    assert documents.counts.dropped == {"crash": 2, "timeout": 1}
    assert outcomes["slow"].error == "the unit took longer than 8 s, also when it ran alone"
    assert "more than its 256 MB, also when it ran alone" in outcomes["hungry"].error
    assert "SIGSEGV" in outcomes["bad"].error
    assert outcomes["bad"].attempts == 3
    with pytest.raises(ConfigError, match="threshold"):
        run(on(cluster), tmp_path / "second", [unit("bad", "config"), unit("good")])
    with monkeypatch.context() as patch, pytest.raises(HeadwaterError, match="no node .* has the 64 cores of a unit"):
        patch.setattr("infra.execution.ray.UNUSABLE_LIMIT_S", 1.0)
        run(on(cluster, settings=RaySettings(address=cluster.address, cpus_per_unit=64)), tmp_path / "big", [unit("a")])
    with pytest.raises(HeadwaterError, match="no_such_module"):
        list(on(cluster).run(task(tmp_path / "third", "tests.infra.no_such_module:STAGE"), [unit("a")]))


@pytest.mark.slow
def test_a_lost_node_costs_another_attempt_elsewhere(tmp_path: Path, cluster: Any) -> None:
    doomed = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    units = [unit(f"u{number}", "sleep", seconds=1.5) for number in range(12)]
    outcomes: dict[str, UnitOutcome] = {}
    for outcome in on(cluster).run(task(tmp_path), units):
        outcomes[outcome.unit.id] = outcome
        if doomed is not None:
            cluster.remove_node(doomed, allow_graceful=False)
            doomed = None
    assert all(outcome.receipt for outcome in outcomes.values())
    assert len(outcomes) == 12
    repeated = [outcome.attempts for outcome in outcomes.values() if outcome.attempts > 1]
    assert repeated
    assert set(repeated) == {2}


class BrokenOff(BaseException):
    """Stands for a crash: nothing handles it."""


@dataclass
class Breaking:
    """Works like another executor and dies after some units of one step."""

    executor: Executor
    step: str
    after: int = 2

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        for number, outcome in enumerate(self.executor.run(task, units), start=1):
            yield outcome
            if task.step == self.step and number == self.after:
                raise BrokenOff


@pytest.mark.slow
def test_a_run_moves_to_a_cluster_and_back(tmp_path: Path, cluster: Any) -> None:
    numbers, squares = NumbersConfig(files=8), SquaresConfig()

    def outcome(home: str, executor: Executor) -> list[str]:
        moved = dataclasses.replace(context(tmp_path / home), executor=executor)
        return [stage.dataset.digest for stage in run_both(moved, numbers, squares).values()]

    local = LocalExecutor()
    whole = outcome("whole", local)
    for executor in (Breaking(local, "write"), Breaking(on(cluster), "split"), Breaking(local, "square", 5)):
        with pytest.raises(BrokenOff):
            outcome("moved", executor)
    assert outcome("moved", on(cluster)) == whole


@pytest.mark.slow
def test_duplicates_are_found_alike(tmp_path: Path, cluster: Any) -> None:
    """Dedup regroups its data in nine steps: what one node writes another reads."""
    import random

    from infra.runner import run_stage
    from infra.stage import StageNode
    from pipeline.dedup import STAGE, DedupConfig
    from tests.pipeline.dedup.corpora import document, edited, publish, sentence_words

    rng = random.Random(4)
    rows = []
    for number in range(80):
        words = sentence_words(rng, 100)
        rows.append(document(f"o{number}", " ".join(words), quality=rng.random()))
        if number % 3 == 0:
            rows.append(document(f"n{number}", " ".join(edited(rng, words, 1)), quality=rng.random()))
    source = publish(tmp_path / "source", {"web/a": rows[:50], "web/b": rows[50:]})
    found = []
    for name, executor in (("here", LocalExecutor()), ("there", on(cluster))):
        run_context = dataclasses.replace(context(tmp_path / name), executor=executor)
        found.append(
            run_stage(StageNode(STAGE, DedupConfig(block_documents=40)), {"quality": source}, run_context).dataset
        )
    assert found[0].manifest.counts.dropped
    assert found[0].digest == found[1].digest


# ---- a driver that ends ---------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from infra.execution.ray import RayExecutor
from infra.execution.ray_settings import RaySettings
from tests.infra.test_execution import task, unit
executor = RayExecutor(settings=RaySettings(address=sys.argv[2], scratch=sys.argv[1]))
list(executor.run(task(Path(sys.argv[1])), [unit("a", "stuck"), unit("b", "stuck")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_runs_on_after_the_driver(tmp_path: Path, cluster: Any, how: str) -> None:
    """Its units hold the interpreter's lock: they notice nothing themselves."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), cluster.address],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    scratch = tmp_path / "headwater"
    try:
        deadline = time.monotonic() + 90
        while len(busy := at_work(scratch)) < 4 and time.monotonic() < deadline:
            time.sleep(0.3)
        assert len(busy) == 4, "two units, each with its Ray worker and its own process"
        family = {*busy, *(child for each in busy for child in each.children(recursive=True))}
        assert len(family) > 4, "the fork servers"
        driver.send_signal(getattr(signal, how))
        assert driver.wait(30) != 0
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
        assert not at_work(scratch), "none was started again"
    finally:
        driver.kill()
        driver.wait()


def at_work(scratch: Path) -> list[psutil.Process]:
    """The processes that share a board (a mapped file) in a scratch folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(scratch) in Path(f"/proc/{process.pid}/maps").read_text():
                found.append(process)
        except OSError:  # it ended meanwhile
            continue
    return found
