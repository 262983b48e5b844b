"""The doctor sees a server that lets strangers in, and files that others can read."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from flows.operate.credentials import CLIENT_AUTH, generate_auth
from flows.operate.doctor import server_checks
from infra.store.store import Store


@contextmanager
def server(asks: bool, origins: str, variables: tuple[str, ...]) -> Iterator[str]:
    """As much of a Prefect server as the doctor looks at."""
    pool = {"base_job_template": {"variables": {"properties": {name: {} for name in variables}}}}

    class Answers(BaseHTTPRequestHandler):
        def answer(self, code: int, body: object = None) -> None:
            self.send_response(code)
            if origins == "*":
                self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self) -> None:
            known = "Authorization" in self.headers or not asks
            self.answer(200, metadata.version("prefect")) if known else self.answer(401)

        def do_OPTIONS(self) -> None:
            self.answer(200 if origins == "*" else 400)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            pools = [{"name": name, **pool} for name in ("control", "cpu", "gpu")]
            self.answer(200, pools if self.path.endswith("/work_pools/filter") else [])

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/api"
        served.shutdown()


@pytest.mark.parametrize(
    ("asks", "origins", "variables", "states"),
    [
        (True, "own", ("stream_output",), {"password": "ok", "origins": "ok", "pools": "ok"}),
        (False, "own", ("stream_output",), {"password": "fail", "origins": "ok", "pools": "ok"}),
        (True, "*", ("stream_output",), {"password": "ok", "origins": "fail", "pools": "ok"}),
        (True, "own", ("command", "env"), {"password": "ok", "origins": "ok", "pools": "warn"}),
    ],
)
def test_an_open_door_is_said(
    asks: bool, origins: str, variables: tuple[str, ...], states: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(CLIENT_AUTH, "operator:secret")
    with server(asks, origins, variables) as address:
        monkeypatch.setenv("PREFECT_API_URL", address)
        found = {check.name: check for check in server_checks(Store.at(tmp_path), 4200)}
    assert {name: found[name].state for name in states} == states
    assert all(check.remedy for check in found.values() if check.state != "ok")


def test_files_that_others_can_reach_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("PREFECT") or name == "HEADWATER_API_AUTH_FILE":
            monkeypatch.delenv(name)

    def private() -> list[tuple[str, str]]:
        checks = server_checks(Store.at(tmp_path), 4200)
        return [(check.state, check.remedy) for check in checks if check.name == "private"]

    assert private() == [], "there is nothing yet"
    home = tmp_path / "prefect"
    generate_auth(home)
    assert private() == [("ok", "")]
    home.chmod(0o755)
    assert private() == [("fail", f"chmod 700 {home}")]
    home.chmod(0o700)
    (home / "api_auth").chmod(0o640)
    assert private() == [("fail", f"chmod 600 {home / 'api_auth'}")]
    own = tmp_path / "mine"
    own.write_text("operator:secret\n")
    own.chmod(0o644)
    monkeypatch.setenv("HEADWATER_API_AUTH_FILE", str(own))
    assert private() == [("fail", f"chmod 600 {own}")]
