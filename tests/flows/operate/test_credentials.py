"""The password of a workspace's server: made once, closed to others, and never sent to another server."""

import os
import stat
from pathlib import Path

import pytest

from flows.operate.credentials import (
    CLIENT_AUTH,
    SERVER_AUTH,
    auth_string,
    generate_auth,
    generated_auth,
    private_folder,
)
from flows.operate.server import configure, known_server, record_server, settings
from infra.errors import ConfigError
from infra.store.store import Store

HERE = "http://127.0.0.1:4711/api"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without anything of Prefect's, which is put back afterwards."""
    for name in [*os.environ]:
        if name.startswith("PREFECT") or name == "HEADWATER_API_AUTH_FILE":
            monkeypatch.delenv(name)
    for name in (
        *settings(tmp_path),
        CLIENT_AUTH,
        SERVER_AUTH,
        "PREFECT_API_URL",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE",
    ):
        monkeypatch.setenv(name, "x")  # so that what a test makes ``configure`` set is taken back
        monkeypatch.delenv(name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "workspace" / "prefect"
    secret = generate_auth(home)
    user, password = secret.split(":")
    assert user == "headwater" and len(password) >= 32
    assert (mode(home), mode(home / "api_auth")) == (0o700, 0o600)
    assert generate_auth(home) == generated_auth(home) == secret
    assert generate_auth(tmp_path / "other") != secret
    assert sorted(path.name for path in home.iterdir()) == ["api_auth"]


def test_a_folder_and_a_file_of_before_are_closed(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    home.mkdir(mode=0o755)
    (home / "api_auth").write_text("headwater:of-before\n")
    (home / "api_auth").chmod(0o644)
    assert generate_auth(home) == "headwater:of-before"
    assert (mode(home), mode(home / "api_auth")) == (0o700, 0o600)


def test_a_folder_that_cannot_be_closed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made private"):
        private_folder(tmp_path / "file" / "prefect")


def test_a_server_that_we_start_has_it_and_its_clients_too(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    configure(store, HERE, serving=True)
    secret = generated_auth(tmp_path / "prefect")
    assert secret and os.environ[CLIENT_AUTH] == os.environ[SERVER_AUTH] == secret
    assert os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] != "*"
    assert os.environ["PREFECT_UI_API_URL"] == "/api"


def test_they_find_it_in_the_workspace_wherever_prefect_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "of prefect"))
    configure(Store.at(tmp_path / "ws"), HERE, serving=True)
    assert os.environ[SERVER_AUTH] == generated_auth(tmp_path / "ws" / "prefect")
    assert generated_auth(tmp_path / "of prefect") is None


def test_so_does_the_one_that_prefect_starts_for_a_run(tmp_path: Path) -> None:
    configure(Store.at(tmp_path), None)
    assert os.environ[SERVER_AUTH] == os.environ[CLIENT_AUTH] == generated_auth(tmp_path / "prefect")


def test_the_users_own_secret_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLIENT_AUTH, "operator:mine")
    configure(Store.at(tmp_path), HERE, serving=True)
    assert os.environ[SERVER_AUTH] == "operator:mine"
    assert generated_auth(tmp_path / "prefect") is None


@pytest.mark.parametrize("address", [HERE, "http://localhost:4711/api/", None])
def test_another_command_in_the_workspace_finds_it(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.at(tmp_path)
    secret = generate_auth(tmp_path / "prefect")
    record_server(store, HERE, "http://127.0.0.1:4711")
    if address:
        monkeypatch.setenv("PREFECT_API_URL", address)
    assert known_server(store) == (address or HERE)
    assert auth_string() == secret


@pytest.mark.parametrize(
    "address", ["http://prefect.example/api", "http://127.0.0.1:4712/api", "http://10.0.0.9:4711/api"]
)
def test_another_server_never_sees_it(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.at(tmp_path)
    generate_auth(tmp_path / "prefect")
    record_server(store, HERE, "http://127.0.0.1:4711")
    monkeypatch.setenv("PREFECT_API_URL", address)
    assert known_server(store) == address
    configure(store, address)
    assert auth_string() is None


def test_a_record_of_another_users_server_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_server(Store.at(tmp_path), HERE, "http://127.0.0.1:4711")

    def refused(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    assert known_server(Store.at(tmp_path)) is None
