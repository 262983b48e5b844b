"""Where ``headwater up`` listens, what it says, and how its server is found: without starting one."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import up as up_command
from flows.operate.credentials import generate_auth
from flows.operate.server import record_server, running_server
from flows.operate.up import Serving, async_url, check_port
from infra.errors import ConfigError
from infra.store.store import Store
from tests.support import REPOSITORY


def test_a_port_in_use_is_said_with_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use.*--port {port + 1}"):
            check_port(port)
    check_port(port)


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        check_port(4200, "192.0.2.1")
    with pytest.raises(ConfigError, match="no such address"):
        check_port(4200, "no-such-host.invalid")


@pytest.mark.parametrize(
    ("host", "ui"),
    [
        ("127.0.0.1", "http://127.0.0.1:4200"),
        ("0.0.0.0", "http://127.0.0.1:4200"),
        ("::", "http://127.0.0.1:4200"),
        ("::1", "http://[::1]:4200"),
        ("10.0.0.9", "http://10.0.0.9:4200"),
    ],
)
def test_this_machine_finds_the_server_wherever_it_listens(host: str, ui: str, tmp_path: Path) -> None:
    assert Serving(Store.at(tmp_path), (), host=host).ui == ui


@pytest.mark.parametrize("terminal", [True, False])
def test_the_link_that_signs_in_is_for_terminals_only(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output that goes elsewhere is kept: by a journal, by a log."""
    monkeypatch.delenv("HEADWATER_API_AUTH_FILE", raising=False)
    secret = generate_auth(tmp_path / "prefect")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", secret)
    monkeypatch.setattr(up_command, "serve", lambda wanted, ready, say: ready(["pipeline/pipeline-small"]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    before = signal.getsignal(signal.SIGTERM)
    try:
        up_command.command(workspace=str(tmp_path), host="127.0.0.1", port=4711)
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out.replace("\n", "")
    assert "Prefect UI   http://127.0.0.1:4711" in said and "prefect/api_auth (user:password)" in said
    assert (f"http://127.0.0.1:4711/sign-in#{secret}" in said) is terminal
    assert (secret.split(":")[1] in said) is terminal


def test_the_first_commands_of_the_page_on_passwords_work_on_a_fresh_account(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/operations/maintenance.md").read_text()
    (commands,) = re.findall(r"```\n(mkdir -p ~/\.config\n.*?)headwater up", page, re.DOTALL)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-euc", commands], env=environment, capture_output=True, text=True, check=False)
    if "openssl" in done.stderr:
        pytest.skip("no openssl here")
    assert done.returncode == 0, done.stderr
    secret = tmp_path / ".config/headwater-auth"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"operator:\S{32}\n", secret.read_text())


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
