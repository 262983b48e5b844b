"""What runs depend on goes away: the worker, the server, the network between them, the process of the run itself. The work
goes on or is taken up again where it was, and publishes the same.

The run is ``pretrain`` by its deployment, long enough to be in the middle of things when it happens: it starts a process
group, writes checkpoints, reports progress, and has to tell the server its end.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.store.store import Store
from tests.chaos.victims import flow_run_of
from tests.flows.cluster import Cluster, ranks, running, wait_for
from tests.flows.operate.test_cancel import LAST, PATIENCE_S, STEPS, digests, undisturbed, work_of

__all__ = ["undisturbed"]
pytestmark = [pytest.mark.slow, pytest.mark.prefect]


@pytest.fixture(scope="module")
def cluster(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("crashed") / "workspace"
    shutil.copytree(undisturbed, home)
    with running(Cluster(home, "smoke", (STEPS,))) as cluster:
        yield cluster


def training(cluster: Cluster) -> tuple[str, list[psutil.Process]]:
    """A run of pretraining from nothing, in the middle of it; the run and its ranks."""
    shutil.rmtree(cluster.workspace / "datasets" / LAST)
    shutil.rmtree(cluster.workspace / "work" / LAST, ignore_errors=True)
    run = cluster.submit(f"{LAST}/smoke")
    wait_for(lambda: work_of(cluster.workspace, LAST, "checkpoints/step-*"), PATIENCE_S, "a checkpoint")
    return run, ranks(cluster.family())


def completed_once(cluster: Cluster, run: str, undisturbed: Path, group: list[psutil.Process]) -> None:
    """The very same process group brought it to its end: nothing was started a second time."""
    assert cluster.ended(run, 2 * PATIENCE_S) == "COMPLETED"
    assert digests(cluster.workspace) == digests(undisturbed)
    (logs,) = (cluster.workspace / "work" / LAST).glob("*/logs")
    assert len(list(logs.glob("try-*.log"))) == 1
    assert not any(rank.is_running() for rank in group)
    wait_for(lambda: not cluster.family(), 30, "every process of the run to end")


def test_a_killed_worker_leaves_its_run_to_end_well(cluster: Cluster, undisturbed: Path) -> None:
    run, group = training(cluster)
    cluster.kill_worker()
    assert all(rank.is_running() for rank in group)
    cluster.start_worker()
    completed_once(cluster, run, undisturbed, group)


def test_a_server_killed_and_started_again_finds_its_run(cluster: Cluster, undisturbed: Path) -> None:
    run, group = training(cluster)
    cluster.kill_server()
    time.sleep(10)
    assert all(rank.is_running() for rank in group) or Store.at(cluster.workspace).get_ref(LAST, "smoke")
    cluster.start_server()
    completed_once(cluster, run, undisturbed, group)


@pytest.mark.parametrize("seconds", [20, 60])
def test_a_cut_network_holds_up_no_work(cluster: Cluster, undisturbed: Path, seconds: int) -> None:
    run, group = training(cluster)
    cluster.wire.cut()
    steps = max(steps_told(cluster), default=0)
    time.sleep(seconds)
    published = any(cluster.workspace.glob(f"datasets/{LAST}/*/manifest.json"))
    assert published or max(steps_told(cluster)) > steps, "the stage waited for the network"
    assert cluster.state(run) == "RUNNING"
    cluster.wire.join()
    completed_once(cluster, run, undisturbed, group)


def test_a_killed_driver_takes_its_ranks_along_and_is_run_again(cluster: Cluster, undisturbed: Path) -> None:
    run, _ = training(cluster)
    for process in cluster.family():
        if flow_run_of(process) == run:
            process.kill()
    wait_for(lambda: not cluster.family(), 30, "the ranks to follow their driver")
    assert cluster.ended(run, 60) == "CRASHED"
    resumed(cluster, undisturbed)


def resumed(cluster: Cluster, undisturbed: Path) -> None:
    """Submitted again, the stage goes on from its newest checkpoint and publishes the same."""
    told = len(steps_told(cluster))
    newest = max(int(path.name.removeprefix("step-")) for path in checkpoints(cluster))
    again = cluster.submit(f"{LAST}/smoke")
    assert cluster.ended(again, 2 * PATIENCE_S) == "COMPLETED"
    assert digests(cluster.workspace) == digests(undisturbed)
    assert newest < steps_told(cluster)[told], "it began anew"


def checkpoints(cluster: Cluster) -> list[Path]:
    """Those that are whole: others have another name."""
    return list((cluster.workspace / "work" / LAST).glob("*/checkpoints/step-" + "[0-9]" * 8))


def steps_told(cluster: Cluster) -> list[int]:
    """The steps at which training told its progress, over all its attempts."""
    (events,) = (cluster.workspace / "work" / LAST).glob("*/events.jsonl")
    entries = [json.loads(line) for line in events.read_text().splitlines()]
    return [entry["done"] for entry in entries if entry["type"] == "progress" and entry["total"] > 1]
