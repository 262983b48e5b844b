"""A server with basic authentication: refused without the secret, everything of ours works with it, and nobody sees it."""

import base64
import json
import os
import signal
import socket
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

from flows.operate.credentials import auth_string
from infra.errors import ConfigError

SECRET = "operator:9f2c-not-to-be-seen"


def test_the_secret_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWATER_API_AUTH_FILE", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    assert auth_string() is None
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    assert auth_string() == SECRET
    secret = tmp_path / "secret"
    secret.write_text("other:one\n")
    monkeypatch.setenv("HEADWATER_API_AUTH_FILE", str(secret))
    assert auth_string() == "other:one"


@pytest.mark.parametrize("content", [None, "no colon", "two:of\nthem:here"])
def test_a_file_that_holds_no_secret_is_refused_without_showing_it(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    monkeypatch.setenv("HEADWATER_API_AUTH_FILE", str(secret))
    with pytest.raises(ConfigError, match="credentials") as caught:
        auth_string()
    assert content is None or content not in str(caught.value)


@dataclass(frozen=True)
class Guarded:
    """A running ``headwater up`` whose API asks for a user and password."""

    process: subprocess.Popen[str]
    port: int
    folder: Path
    environment: dict[str, str]

    def call(self, path: str, body: Any = None, secret: str = SECRET) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api{path}",
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        if secret:
            request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def headwater(self, *arguments: str, authorised: bool = True) -> subprocess.CompletedProcess[str]:
        environment = dict(self.environment)
        if not authorised:
            del environment["HEADWATER_API_AUTH_FILE"]
        return subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments, "--workspace", str(self.folder / "workspace")],
            capture_output=True, text=True, env=environment, timeout=240, check=False,
        )  # fmt: skip

    def finished(self, run: dict[str, Any]) -> str:
        for _ in range(240):
            state = self.call(f"/flow_runs/{run['id']}")["state_type"]
            if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return str(state)
            time.sleep(0.5)
        raise TimeoutError(run["name"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("auth")
    rows = [{"id": str(n), "text": f"Document {n} of a small source. " * 8} for n in range(20)]
    (folder / "source.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.yaml").write_text(
        "recipe: small\nstages:\n  ingest:\n    sources:\n"
        f"      - {{name: texts, kind: jsonl, address: {folder}/source.jsonl, id_column: id, language: en}}\n"
    )
    (folder / "secret").write_text(SECRET + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment["HEADWATER_API_AUTH_FILE"] = str(folder / "secret")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "flows.cli.main", "up", "--recipe", str(folder / "small.yaml")),
            *("--workspace", str(folder / "workspace"), "--port", str(port)),
        ],
        stdout=subprocess.PIPE, stderr=(folder / "up.log").open("w"), text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert any("Prefect UI" in line for line in process.stdout), (folder / "up.log").read_text()
    yield Guarded(process, port, folder, environment)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.prefect
def test_the_api_is_closed_to_others_and_open_to_us(guarded: Guarded) -> None:
    for wrong in ("", "operator:guess"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            guarded.call("/deployments/filter", {}, secret=wrong)
        assert refused.value.code == 401
    assert guarded.call("/deployments/filter", {})
    examined = json.loads(guarded.headwater("doctor", "--json").stdout)["checks"]
    states = {check["name"]: check["state"] for check in examined}
    assert (states["server"], states["pools"], states["deployments"]) == ("ok", "ok", "ok")
    stranger = guarded.headwater("run", str(guarded.folder / "small.yaml"), authorised=False)
    assert stranger.returncode == 1 and "asks for credentials" in stranger.stderr


@pytest.mark.slow
@pytest.mark.prefect
def test_the_command_and_the_worker_run_with_it_and_nobody_sees_it(guarded: Guarded) -> None:
    done = guarded.headwater("run", str(guarded.folder / "small.yaml"), "--prefect", "--json")
    assert done.returncode == 0, done.stderr
    names = [run["name"] for run in guarded.call("/flow_runs/filter", {})]
    assert any(name.startswith("pipeline-") for name in names)
    deployment = guarded.call("/deployments/name/ingest/ingest-small")
    form = {"params": deployment["parameters"]["params"] | {"force": True}}
    run = guarded.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": form})
    seen: set[str] = set()
    while (state := guarded.call(f"/flow_runs/{run['id']}")["state_type"]) not in ("RUNNING", "COMPLETED", "FAILED"):
        time.sleep(0.2)
    for child in psutil.Process(guarded.process.pid).children(recursive=True):
        seen.update(child.cmdline())
    assert state == "FAILED" or guarded.finished(run) == "COMPLETED"
    password = SECRET.split(":")[1]
    assert not any(password in word for word in seen)
    logs = [*(guarded.folder / "workspace").rglob("*.log"), guarded.folder / "up.log"]
    assert len(logs) >= 3 and not any(password in path.read_text(errors="replace") for path in logs)
    told = guarded.call("/logs/filter", {"limit": 200})
    assert told and password not in json.dumps(told) and password not in done.stdout + done.stderr
