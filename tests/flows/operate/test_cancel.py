"""Cancelling from the UI, with a real server and worker: nothing goes on, and nothing is lost.

A run may be cancelled as the whole path in one process, as the whole path by deployments, or as a single stage; while it
uses a pool of workers, or a process group. Afterwards the run is finished, and publishes what an undisturbed run does.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.store.store import Store
from tests.flows.cluster import Cluster, ranks, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]
STEPS = "pretrain.steps=80"
LAST = "pretrain"
WITHIN_S = 30.0
PATIENCE_S = 240.0


def digests(home: Path) -> dict[str, str]:
    return {dataset.name: dataset.digest for dataset in Store.at(home).datasets()}


def work_of(home: Path, stage: str, pattern: str) -> bool:
    return any(home.glob(f"work/{stage}/*/{pattern}"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one whole run up to pretraining."""
    home = tmp_path_factory.mktemp("undisturbed") / "workspace"
    subprocess.run(
        [
            *(sys.executable, "-m", "flows.cli.main", "run", "smoke", "--no-prefect", "--stop-after", LAST),
            *("--set", STEPS, "--workspace", str(home)),
        ],
        check=True, capture_output=True, timeout=500,
    )  # fmt: skip
    return home


@pytest.fixture(scope="module")
def cluster(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server and a worker over a copy in which ingest and pretraining are still to be done."""
    home = tmp_path_factory.mktemp("cancelled") / "workspace"
    shutil.copytree(undisturbed, home)
    for stage in ("ingest", LAST):
        shutil.rmtree(home / "datasets" / stage)
        shutil.rmtree(home / "work" / stage)
    with running(Cluster(home, "smoke", (STEPS,))) as cluster:
        yield cluster


def cancelled(cluster: Cluster, run: str) -> None:
    """Cancel, and demand that no process is left in time."""
    assert cluster.family()
    cluster.cancel(run)
    wait_for(lambda: not cluster.family(), WITHIN_S, "every process of the run to end")
    assert cluster.ended(run, 60) == "CANCELLED"
    tasks = cluster.call("/task_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    assert [task["state_type"] for task in tasks] == ["CANCELLED"], "its task has not crashed either"
    newest = max((cluster.workspace / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    ends = [event for event in map(json.loads, (newest / "events.jsonl").open()) if event["type"] == "run_ended"]
    assert ends[-1]["state"] == "cancelled"


def test_the_whole_path_in_one_process_while_a_pool_works(cluster: Cluster) -> None:
    run = cluster.submit("pipeline/pipeline-smoke", stop_after=LAST)
    wait_for(lambda: work_of(cluster.workspace, "ingest", "journal/*.jsonl"), PATIENCE_S, "the first receipt")
    assert len(cluster.family()) > 3  # flow, fork server, workers
    cancelled(cluster, run)
    assert "ingest" not in digests(cluster.workspace)


def test_a_stage_of_its_own_while_ranks_train(cluster: Cluster) -> None:
    finished = cluster.submit("ingest/ingest-smoke")
    assert cluster.ended(finished, PATIENCE_S) == "COMPLETED"
    run = cluster.submit("pretrain/pretrain-smoke")
    wait_for(lambda: work_of(cluster.workspace, LAST, "checkpoints/step-*"), PATIENCE_S, "a checkpoint")
    assert len(ranks(cluster.family())) == 2
    cancelled(cluster, run)


def test_the_whole_path_by_deployments_cancels_its_child(cluster: Cluster) -> None:
    run = cluster.submit("pipeline/pipeline-smoke", stop_after=LAST, dispatch="deployments")
    wait_for(lambda: len(ranks(cluster.family())) == 2, PATIENCE_S, "two ranks")
    cancelled(cluster, run)
    children = [entry for entry in cluster.runs() if entry["name"].startswith("pretrain-")]
    assert children
    assert {cluster.ended(entry["id"], 60) for entry in children} == {"CANCELLED"}  # told by the worker, somewhat later


def test_run_again_it_publishes_what_an_undisturbed_run_does(cluster: Cluster, undisturbed: Path) -> None:
    run = cluster.submit("pipeline/pipeline-smoke", stop_after=LAST)
    assert cluster.ended(run, 2 * PATIENCE_S) == "COMPLETED"
    assert digests(cluster.workspace) == digests(undisturbed)
