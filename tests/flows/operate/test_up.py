"""``headwater up``: a server, workers and deployments on this machine, from which a single stage is rerun."""

import base64
import html
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.operate.doors import sign_in_link
from flows.operate.lost_runs import Claim
from flows.operate.server import answers
from infra.store.lease import Lease
from infra.store.store import Store
from tests.flows.cluster import Wire


@dataclass(frozen=True)
class Up:
    """A running ``headwater up``."""

    process: subprocess.Popen[str]
    api: str
    workspace: Path
    recipe: Path

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        credentials = base64.b64encode((self.workspace / "prefect/api_auth").read_bytes().strip()).decode()
        headers = {"content-type": "application/json", "authorization": f"Basic {credentials}"}
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        for patience in range(5):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    answer = response.read()
                    return json.loads(answer) if answer else None
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
        named = [
            process
            for process in family
            if {"flows.operate.prefect_server", "flows.operate.worker"} & set(process.cmdline())
        ]
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


# ---- who is let in ---------------------------------------------------------------------------------------------------

STRANGERS_PAGE = """<!doctype html><body><script>
const api = "%(api)s", told = {};
const order = JSON.stringify({state: {type: "SCHEDULED"}, job_variables: {command: "touch %(mark)s"}});
async function tell(name, path, how) {
  try { const answer = await fetch(api + path, how); told[name] = answer.type + " " + answer.status + " " + await answer.text(); }
  catch (error) { told[name] = "blocked"; }
}
async function listen() {
  let heard;
  const socket = new WebSocket(api.replace("http", "ws") + "/events/out", "prefect");
  socket.onopen = () => socket.send(JSON.stringify({type: "auth", token: "operator:guess"}));
  socket.onmessage = message => { heard = message.data; };
  socket.onclose = () => { heard = "closed"; };
  while (!heard) await fetch("page.html");  // a browser without a head does not wait for sockets
  return heard;
}
(async () => {
  const json = {"content-type": "application/json"};
  await tell("read", "/deployments/filter", {method: "POST", headers: json, body: "{}"});
  await tell("simple", "/deployments/filter", {method: "POST", headers: {"content-type": "text/plain"}, body: "{}"});
  await tell("order", "/deployments/%(deployment)s/create_flow_run", {method: "POST", headers: json, body: order});
  await tell("blind", "/deployments/%(deployment)s/create_flow_run", {method: "POST", mode: "no-cors", body: order});
  told.feed = await listen();
  document.body.textContent = "TOLD" + JSON.stringify(told) + "DLOT";
})();
</script>"""


def page_in_a_browser(url: str, folder: Path) -> str:
    """The page as a real browser has it after its scripts have run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, f"--user-data-dir={folder}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return re.sub(r"<(script|style)\b.*?</\1>", "", done.stdout, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.prefect
def test_a_page_of_another_origin_can_neither_read_nor_order_anything(up: Up, tmp_path: Path) -> None:
    deployment = up.call("/deployments/name/ingest/ingest-small")["id"]
    before = up.call("/flow_runs/count", {})
    page = STRANGERS_PAGE % {"api": up.api, "deployment": deployment, "mark": tmp_path / "mark"}
    (tmp_path / "page.html").write_text(page)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        seen = page_in_a_browser(f"http://127.0.0.1:{elsewhere.server_port}/page.html", tmp_path / "browser")
        elsewhere.shutdown()
    told = json.loads(html.unescape(seen.split("TOLD")[1].split("DLOT")[0]))
    assert told.pop("blind").strip() == "opaque 0", "it may ask, but not know"
    assert told == {"read": "blocked", "simple": "blocked", "order": "blocked", "feed": "closed"}
    assert up.call("/flow_runs/count", {}) == before
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
@pytest.mark.prefect
def test_the_ui_asks_for_the_password_and_the_printed_link_has_it(up: Up, tmp_path: Path) -> None:
    ui = up.api.removesuffix("/api")
    stranger = page_in_a_browser(ui, tmp_path / "stranger")
    assert "Login" in stranger and "Dashboard" not in stranger
    link = sign_in_link(ui, (up.workspace / "prefect/api_auth").read_text().strip())
    assert "Dashboard" in page_in_a_browser(link, tmp_path / "friend")
    # Through a tunnel the server has another port: the UI finds the API beside itself.
    tunnel = Wire(int(ui.rsplit(":", 1)[1]))
    tunnel.join()
    try:
        through = page_in_a_browser(link.replace(ui, f"http://localhost:{tunnel.port}"), tmp_path / "tunnel")
    finally:
        tunnel.cut()
    assert "Dashboard" in through and "Login" not in through


@pytest.mark.slow
@pytest.mark.prefect
def test_another_user_of_the_machine_reaches_nothing(up: Up) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    home = up.workspace / "prefect"
    for folder in up.workspace.parents:  # so that nothing but our own modes keeps them out
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    nobody = pwd.getpwnam("nobody")

    def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )

    assert as_nobody("ls", str(up.workspace)).returncode == 0, "the workspace itself is open"
    for name in ("", "api_auth", "prefect.db", "server.json", "logs/server.log"):
        assert (home / name).exists()
        assert as_nobody("cat", str(home / name)).returncode != 0, name
        assert as_nobody("ls", str(home / name)).returncode != 0, name
    for process in [up.process.pid, *(service.pid for service in up.services())]:
        assert as_nobody("cat", f"/proc/{process}/environ").stdout == ""
        words = as_nobody("cat", f"/proc/{process}/cmdline").stdout
        assert words and (home / "api_auth").read_text().split(":")[1].strip() not in words
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{up.api}/admin/settings", timeout=30)


@pytest.mark.slow
@pytest.mark.prefect
def test_a_name_that_was_pointed_at_this_machine_is_refused(up: Up) -> None:
    for name, code in (("evil.example", 421), ("127.0.0.1", 401)):
        request = urllib.request.Request(f"{up.api}/admin/version", headers={"Host": name})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code == code


@pytest.mark.slow
@pytest.mark.prefect
def test_who_has_the_password_cannot_order_a_command_either(up: Up, tmp_path: Path) -> None:
    """By the pool's template on the server; and by the worker, where the pool was opened or the deployment changed."""
    deployment = up.call("/deployments/name/ingest/ingest-small")
    order = {"job_variables": {"command": f"touch {tmp_path}/mark"}}
    with pytest.raises(urllib.error.HTTPError, match="422"):
        up.call(f"/deployments/{deployment['id']}/create_flow_run", order)
    template = up.call("/work_pools/cpu")["base_job_template"]
    try:
        open_ = json.loads(json.dumps(template))
        open_["job_configuration"]["command"] = "{{ command }}"
        open_["variables"]["properties"]["command"] = {"type": "string"}
        up.call("/work_pools/cpu", {"base_job_template": open_}, method="PATCH")
        run = up.call(f"/deployments/{deployment['id']}/create_flow_run", order)
        refused = up.reached(run["id"], "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    finally:
        up.call("/work_pools/cpu", {"base_job_template": template}, method="PATCH")
    assert refused["state_name"] == "Failed" and "may not set command" in refused["state"]["message"]
    assert not (tmp_path / "mark").exists()
    assert up.run("ingest/ingest-small")["state_name"] == "Completed", "the worker goes on"


@pytest.mark.slow
@pytest.mark.prefect
def test_the_doctor_sees_that_it_is_closed(up: Up) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    command = [sys.executable, "-m", "flows.cli.main", "doctor", "--json", "--workspace", str(up.workspace)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    closed = ("private", "server", "password", "origins", "pools", "deployments")
    assert [states[name] for name in closed] == ["ok"] * len(closed), done.stdout


# ---- what it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.prefect
def test_a_single_stage_is_rerun_through_the_api(up: Up) -> None:
    first = up.run("ingest/ingest-small")
    assert first["state_name"] == "Completed"
    assert first["name"] == f"ingest-small-{first['id'][-8:]}"
    dataset = Store.at(up.workspace).get_ref("ingest", "small")
    assert dataset is not None
    assert dataset.manifest.counts.kept == 20
    forced = up.run("ingest/ingest-small", force=True)
    assert forced["state_name"] == "Completed"
    again = Store.at(up.workspace).get_ref("ingest", "small")
    assert again is not None
    assert again.digest == dataset.digest
    assert again.manifest.provenance.started > dataset.manifest.provenance.ended
    assert {"ingest-progress", "ingest-samples"} <= up.artifacts()


@pytest.mark.slow
@pytest.mark.prefect
def test_the_whole_path_runs_stages_by_their_deployments(up: Up) -> None:
    run = up.run("pipeline/pipeline-small", dispatch="deployments", force=["ingest"])
    assert run["state_name"] == "Completed"
    children = up.call("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 20})
    assert any(child["deployment_id"] and child["parent_task_run_id"] for child in children)
    assert {"plan", "funnel", "lineage", "report"} <= up.artifacts()


@pytest.mark.slow
@pytest.mark.prefect
def test_the_report_of_a_run_is_a_click_away_also_when_it_failed(up: Up) -> None:
    def report_of(run: dict[str, Any]) -> str:
        wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["report"]}}}
        [artifact] = up.call("/artifacts/filter", wanted)
        link = artifact["data"].partition("](")[2].rstrip(")")
        assert link.startswith("/reports/small-") and "?key=" in link
        with urllib.request.urlopen(up.api.removesuffix("/api") + link, timeout=30) as page:
            assert "sandbox" in page.headers["content-security-policy"]
            return str(page.read().decode())

    good = report_of(up.run("pipeline/pipeline-small", force=["ingest"]))
    assert "Every document has a fate" in good and "20 came in" in good
    source = up.recipe.with_name("source.jsonl")
    source.rename(up.recipe.with_name("moved.jsonl"))
    try:
        failed = up.run("pipeline/pipeline-small", force=["ingest"])
    finally:
        up.recipe.with_name("moved.jsonl").rename(source)
    assert failed["state_type"] == "FAILED"
    asked = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "status", "--json", "--workspace", str(up.workspace)],
        capture_output=True, text=True, timeout=120, check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT")},
    )  # fmt: skip
    found = json.loads(asked.stdout)
    assert found["failed"][0]["recipe"] == "small" and "headwater run" in found["failed"][0]["command"]
    assert found["next"]["server"] == up.api and found["next"]["error"] is None


@pytest.mark.slow
@pytest.mark.prefect
def test_a_failed_child_fails_its_parent_with_the_cause(up: Up) -> None:
    source = up.recipe.with_name("source.jsonl")
    sound = source.read_text()
    source.write_text("no JSON\n" * 20)  # which nobody sees before it is read
    try:
        failed = up.run("pipeline/pipeline-small", dispatch="deployments", force=["ingest"])
    finally:
        source.write_text(sound)
    (child,) = [
        run
        for run in up.call("/flow_runs/filter", {})
        if run["name"].startswith("ingest-") and run["state_name"] == "Failed"
    ]
    assert child["state"]["message"].startswith("ingest: ")
    cause = child["state"]["message"].split(".")[0]
    assert failed["state_name"] == "Failed"
    assert failed["state"]["message"].startswith(cause) and f"(flow run {child['name']})" in failed["state"]["message"]
    for run in (child, failed):
        time.sleep(3)  # logs arrive a little after the run
        logs = up.call("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "TIMESTAMP_ASC"})
        assert (logs[-1]["level"], logs[-1]["message"]) == (40, run["state"]["message"]), (
            "the sentence is the last line"
        )
        assert [entry["level"] for entry in logs].count(40) == 1
        assert not any("Traceback" in entry["message"] for entry in logs)


@pytest.mark.slow
@pytest.mark.prefect
def test_partial_parameters_run_the_deployments_own_recipe(up: Up) -> None:
    """A schedule or a call of the API may say a part; Prefect hands over that part as the whole form."""
    for name, given in (
        ("ingest/ingest-small", {}),
        ("ingest/ingest-small", {"params": {"force": True}}),
        ("pipeline/pipeline-small", {"params": {}}),
    ):
        deployment = up.call(f"/deployments/name/{name}")["id"]
        run = up.call(f"/deployments/{deployment}/create_flow_run", {"parameters": given})
        done = up.reached(run["id"], "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert done["state_name"] == "Completed", done["state"]["message"]
        assert "-small-" in done["name"]
    assert {path.name.split("-")[0] for path in (up.workspace / "runs").iterdir()} == {"small"}, "never demo's"


@pytest.mark.slow
@pytest.mark.prefect
def test_a_stage_leaves_some_tens_of_rows_in_the_database(up: Up) -> None:
    def rows() -> int:
        with sqlite3.connect(f"file:{up.workspace}/prefect/prefect.db?mode=ro", uri=True) as database:
            tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
            kept = [name for name in tables if not name.startswith("event")]  # events are cut after an hour
            return sum(database.execute(f'select count(*) from "{name}"').fetchone()[0] for name in kept)

    before = rows()
    assert up.run("pipeline/pipeline-small", force=["ingest"])["state_name"] == "Completed"
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
    assert json.loads(failed.stderr.splitlines()[-1])["error"].endswith("there is no file")
    assert "Traceback" not in failed.stderr
    names = names_of_runs(up)
    assert [name for name in names if "-moved-" in name] == names[:1], "what failed is seen"
    assert len([name for name in names if name.startswith("pipeline-small-")]) == before, "nothing to do: no flow run"


@pytest.mark.slow
@pytest.mark.prefect
def test_a_run_lost_while_it_was_being_submitted_is_run_all_the_same(up: Up) -> None:
    deployment = up.call("/deployments/name/ingest/ingest-small")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    run = str(up.call(f"/deployments/{deployment}/create_flow_run", {"state": later})["id"])
    mine = Claim.mine("cpu-gone")
    dead = Claim(mine.worker, mine.machine, mine.pid, mine.started - 1000.0)
    up.call(f"/flow_runs/{run}/labels", dead.labels, method="PATCH")
    up.call(f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}, "force": True})
    done = up.reached(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # the workers look every minute
    assert done["state_name"] == "Completed"


@pytest.mark.slow
@pytest.mark.prefect
def test_server_and_workers_that_die_are_started_again_and_so_is_what_they_ran(up: Up) -> None:
    dataset = Store.at(up.workspace).get_ref("ingest", "small")
    assert dataset is not None
    with Lease(Store.at(up.workspace).work_url("ingest", dataset.manifest.fingerprint)) as lease:
        lease.acquire()
        run = up.submit("ingest/ingest-small", force=True)  # waits for the lease
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
    assert up.run("pipeline/pipeline-small")["state_name"] == "Completed"
    assert len(up.services()) == 2
