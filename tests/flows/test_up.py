"""``headwater up``: a server, workers and deployments on this machine, from which a single stage is rerun."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.server import answers, record_server, running_server
from flows.up import async_url, check_port
from infra.errors import ConfigError
from infra.store.lease import Lease
from infra.store.store import Store


def test_a_port_in_use_is_said_with_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use.*--port {port + 1}"):
            check_port(port)
    check_port(port)


def test_database_urls_name_an_asynchronous_driver() -> None:
    assert async_url("postgresql://me:secret@db/prefect") == "postgresql+asyncpg://me:secret@db/prefect"
    with pytest.raises(ConfigError) as caught:
        async_url("mysql://me:secret@db/prefect")
    assert "secret" not in str(caught.value)


def test_a_record_of_a_dead_server_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    store = Store.at(tmp_path)
    assert running_server(store) is None
    record_server(store, "http://127.0.0.1:9/api", "http://127.0.0.1:9")
    assert running_server(store) is None


@dataclass(frozen=True)
class Up:
    """A running ``headwater up``."""

    process: subprocess.Popen[str]
    api: str
    workspace: Path
    recipe: Path

    def call(self, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.api + path, data, {"content-type": "application/json"})
        for patience in range(5):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code != 503 or patience == 4:  # a busy SQLite database says 503
                    raise
                time.sleep(1 + patience)
        raise AssertionError("not reached")

    def run(self, deployment: str, **changes: Any) -> dict[str, Any]:
        """Run a deployment as the UI's form does, and wait for its end."""
        return self.reached(self.submit(deployment, **changes), "COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def submit(self, deployment: str, **changes: Any) -> str:
        """The id of a new run of a deployment."""
        found = self.call(f"/deployments/name/{deployment}")
        form = found["parameters"]["params"] | changes
        run = self.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": {"params": form}})
        return str(run["id"])

    def reached(self, run: str, *states: str) -> dict[str, Any]:
        """The run, once it is in one of these states."""
        for _ in range(240):
            found = self.call(f"/flow_runs/{run}")
            if found["state_type"] in states:
                return dict(found)
            time.sleep(0.5)
        raise TimeoutError(found["state_name"])

    def services(self) -> list[psutil.Process]:
        """The server and the process of the workers, without their guards."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        named = [process for process in family if {"flows.prefect_server", "flows.worker"} & set(process.cmdline())]
        return [process for process in named if "infra.launch.guard" not in process.cmdline()]

    def artifacts(self) -> set[str]:
        return {artifact["key"] for artifact in self.call("/artifacts/latest/filter", {"limit": 100})}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    rows = [{"id": str(n), "text": f"Document {n} of a small source. " * 8} for n in range(20)]
    (folder / "source.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "small.yaml"
    recipe.write_text(
        "recipe: small\nstages:\n  ingest:\n    sources:\n"
        f"      - {{name: texts, kind: jsonl, address: {folder}/source.jsonl, id_column: id, language: en}}\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "flows.cli.main", "up", "--recipe", str(recipe)),
            *("--workspace", str(folder / "workspace"), "--port", str(port)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert any("Prefect UI" in line for line in process.stdout)
    yield Up(process, f"http://127.0.0.1:{port}/api", folder / "workspace", recipe)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) > 4
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.prefect
def test_a_single_stage_is_rerun_through_the_api(up: Up) -> None:
    first = up.run("ingest/small")
    assert first["state_name"] == "Completed"
    assert first["name"] == f"ingest-small-{first['id'][:8]}"
    dataset = Store.at(up.workspace).get_ref("ingest", "small")
    assert dataset is not None
    assert dataset.manifest.counts.kept == 20
    forced = up.run("ingest/small", force=True)
    assert forced["state_name"] == "Completed"
    again = Store.at(up.workspace).get_ref("ingest", "small")
    assert again is not None
    assert again.digest == dataset.digest
    assert again.manifest.provenance.started > dataset.manifest.provenance.ended
    assert {"ingest-progress", "ingest-samples"} <= up.artifacts()


@pytest.mark.slow
@pytest.mark.prefect
def test_the_whole_path_runs_stages_by_their_deployments(up: Up) -> None:
    run = up.run("pipeline/small", dispatch="deployments", force=["ingest"])
    assert run["state_name"] == "Completed"
    children = up.call("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 20})
    assert any(child["deployment_id"] and child["parent_task_run_id"] for child in children)
    assert {"plan", "funnel", "lineage"} <= up.artifacts()


@pytest.mark.slow
@pytest.mark.prefect
def test_a_failed_child_fails_its_parent_with_the_cause(up: Up) -> None:
    up.recipe.with_name("source.jsonl").rename(up.recipe.with_name("moved.jsonl"))
    try:
        failed = up.run("pipeline/small", dispatch="deployments", force=["ingest"])
    finally:
        up.recipe.with_name("moved.jsonl").rename(up.recipe.with_name("source.jsonl"))
    assert failed["state_name"] == "Failed"
    assert "stage 'ingest' did not complete (Failed): there is no file" in failed["state"]["message"]


@pytest.mark.slow
@pytest.mark.prefect
def test_a_stage_leaves_some_tens_of_rows_in_the_database(up: Up) -> None:
    def rows() -> int:
        with sqlite3.connect(f"file:{up.workspace}/prefect/prefect.db?mode=ro", uri=True) as database:
            tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
            kept = [name for name in tables if not name.startswith("event")]  # events are cut after an hour
            return sum(database.execute(f'select count(*) from "{name}"').fetchone()[0] for name in kept)

    before = rows()
    assert up.run("pipeline/small", force=["ingest"])["state_name"] == "Completed"
    time.sleep(10)  # logs arrive a little after the run
    added = rows() - before
    print("rows of a run with one stage", added)
    assert 20 < added < 90


def names_of_runs(up: Up) -> list[str]:
    """The newest first."""
    return [run["name"] for run in up.call("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 200})]


@pytest.mark.slow
@pytest.mark.prefect
def test_a_run_in_the_same_workspace_is_seen_on_the_server(up: Up) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "run",
        str(up.recipe),
        "--workspace",
        str(up.workspace),
        "--json",
    ]
    before = len([name for name in names_of_runs(up) if name.startswith("pipeline-small-")])
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert [stage["action"] for stage in json.loads(done.stdout)["stages"]] == ["SKIP"]
    moved = up.recipe.with_name("moved.yaml")
    moved.write_text(up.recipe.read_text().replace("source.jsonl", "nowhere.jsonl").replace("small", "moved"))
    failed = subprocess.run([*command[:4], str(moved), *command[5:]], capture_output=True, text=True, env=environment)
    assert failed.returncode == 1
    assert json.loads(failed.stderr.splitlines()[-1])["error"] == "there is no file"
    assert "Traceback" not in failed.stderr
    names = names_of_runs(up)
    assert [name for name in names if "-moved-" in name] == names[:2], "what failed is seen: the path, and its stage"
    assert len([name for name in names if name.startswith("pipeline-small-")]) == before, "nothing to do: no flow run"


@pytest.mark.slow
@pytest.mark.prefect
def test_server_and_workers_that_die_are_started_again_and_so_is_what_they_ran(up: Up) -> None:
    dataset = Store.at(up.workspace).get_ref("ingest", "small")
    assert dataset is not None
    with Lease(Store.at(up.workspace).work_url("ingest", dataset.manifest.fingerprint)) as lease:
        lease.acquire()
        run = up.submit("ingest/small", force=True)  # waits for the lease
        up.reached(run, "RUNNING")
        killed = up.services()
        assert len(killed) == 2
        for service in killed:
            service.kill()
        psutil.wait_procs(killed, timeout=10)
        deadline = time.monotonic() + 120
        while not answers(up.api):
            assert time.monotonic() < deadline
            assert up.process.poll() is None
            time.sleep(0.5)
    done = up.reached(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert (done["state_name"], done["run_count"]) == ("Completed", 2)
    again = Store.at(up.workspace).get_ref("ingest", "small")
    assert again is not None
    assert again.digest == dataset.digest
    assert again.manifest.provenance.started > dataset.manifest.provenance.ended
    assert up.run("pipeline/small")["state_name"] == "Completed"
    assert len(up.services()) == 2
