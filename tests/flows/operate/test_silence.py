"""Silence between a run and its server: the network was cut for longer than Prefect's patience, or nobody is left to speak.

The run is one that waits for a dataset's lease, which the test holds: it is there for as long as it is needed.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.store.dataset import Dataset
from infra.store.lease import Lease
from infra.store.store import Store
from tests.flows.cluster import Cluster, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]
CUT_S = 75.0
"""Prefect's websocket and its polls have given up after 60 s."""
CANCELLED_WITHIN_S = 30.0
HEARTBEAT_S = 30
"""As short as Prefect allows: nine minutes of silence are too long for a test."""
SILENCE_S = 3 * HEARTBEAT_S


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("silence")
    (folder / "source.jsonl").write_text(json.dumps({"id": "1", "text": "One document of a small source. " * 8}))
    recipe = folder / "small.yaml"
    recipe.write_text(
        "recipe: small\nstages:\n  ingest:\n    sources:\n"
        f"      - {{name: texts, kind: jsonl, address: {folder}/source.jsonl, id_column: id, language: en}}\n"
    )
    often = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
    with running(Cluster(folder / "workspace", str(recipe), prefect_settings=often)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def published(cluster: Cluster) -> Dataset:
    assert cluster.ended(cluster.submit("ingest/ingest-small"), 180) == "COMPLETED"
    (published,) = Store.at(cluster.workspace).datasets("ingest")
    return published


@contextmanager
def held(cluster: Cluster, published: Dataset) -> Iterator[None]:
    with Lease(Store.at(cluster.workspace).work_url("ingest", published.manifest.fingerprint)) as lease:
        lease.acquire()
        yield


def waiting_run(cluster: Cluster) -> str:
    run = cluster.submit("ingest/ingest-small", force=True)
    wait_for(lambda: cluster.state(run) == "RUNNING", 120, "the run to begin")
    return run


def test_a_run_that_outlived_a_cut_network_is_cancelled_in_time(cluster: Cluster, published: Dataset) -> None:
    with held(cluster, published):
        run = waiting_run(cluster)
        cluster.wire.cut()
        time.sleep(CUT_S)
        cluster.wire.join()
        time.sleep(15)  # one poll
        assert cluster.family(), "the run did not outlive the cut"
        cluster.cancel(run)
        wait_for(lambda: not cluster.family(), CANCELLED_WITHIN_S, "every process of the run to end")
        assert cluster.ended(run, 60) == "CANCELLED"


def test_a_run_that_died_with_its_worker_is_found_silent_and_run_again(cluster: Cluster, published: Dataset) -> None:
    with held(cluster, published):
        run = waiting_run(cluster)
        time.sleep(3)  # its first heartbeat
        cluster.kill_worker()
        for process in cluster.family():
            process.kill()
        time.sleep(5)
        assert cluster.state(run) == "RUNNING", "nobody is left to tell the server"
        assert cluster.ended(run, SILENCE_S + 30) == "CRASHED"
    assert f"No heartbeat for {SILENCE_S} s" in cluster.call(f"/flow_runs/{run}")["state"]["message"]
    cluster.start_worker()
    assert cluster.ended(cluster.submit("ingest/ingest-small", force=True), 180) == "COMPLETED"
    (again,) = Store.at(cluster.workspace).datasets("ingest")
    assert again.digest == published.digest
    assert again.manifest.provenance.started > published.manifest.provenance.ended
