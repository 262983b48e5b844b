"""The server's database: copied while it is written to, and put back."""

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.operate.database import POSTGRES, SQLITE, database_copy, put_back
from flows.operate.server import prefect_home
from infra.errors import ConfigError, HeadwaterError
from infra.store.backup import back_up
from infra.store.store import Store


def rows(path: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT n FROM runs ORDER BY n").fetchall()


def test_sqlite_is_copied_beside_a_writer_and_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWATER_DATABASE_URL", raising=False)
    store = Store.at(tmp_path / "ws")
    path = prefect_home(store) / SQLITE
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("CREATE TABLE runs (n INTEGER)")
        live.execute("INSERT INTO runs VALUES (1)")
        live.commit()
        live.execute("INSERT INTO runs VALUES (2)")  # not committed: not in the copy
        with database_copy(store, tmp_path / "copy") as found:
            assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o700, "its secrets are nobody else's meanwhile"
            done = back_up(store, str(tmp_path / "backup"), found)
            (kept_there,) = (tmp_path / "backup").rglob(done.extras[SQLITE].digest)
            assert stat.S_IMODE(kept_there.stat().st_mode) == 0o600
            kept = tmp_path / "kept"
            shutil.copyfile(found[SQLITE], kept)
    assert not (tmp_path / "copy").exists()
    path.unlink()
    put_back(store, SQLITE, kept)
    assert rows(path) == [(1,)] and not list(path.parent.glob("prefect.db-*"))
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o700, 0o600]


def test_there_may_be_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWATER_DATABASE_URL", raising=False)
    with database_copy(Store.at(tmp_path), tmp_path / "copy") as found:
        assert found == {}
    with pytest.raises(ConfigError, match="PostgreSQL"):
        put_back(Store.at(tmp_path), POSTGRES, tmp_path / "x")


def test_a_failing_dump_is_one_sentence_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("no pg_dump")
    monkeypatch.setenv("HEADWATER_DATABASE_URL", "postgresql://me:hidden@127.0.0.1:9/prefect")
    with (
        pytest.raises(HeadwaterError, match="pg_dump failed") as caught,
        database_copy(Store.at(tmp_path), tmp_path / "copy"),
    ):
        pass
    assert "hidden" not in str(caught.value)


@pytest.fixture
def postgres() -> Iterator[str]:
    """A PostgreSQL of one's own, with a password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found or shutil.which("pg_dump") is None or shutil.which("runuser") is None:
        pytest.skip("no PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="headwater-pg-"))  # pytest's own folders are closed to other users
    (folder / "password").write_text("s3cret-word")
    as_owner: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        shutil.chown(folder / "password", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    initdb = [*as_owner, str(found[-1] / "initdb"), "-D", str(folder / "data"), "-U", "prefect", "-A", "scram-sha-256"]
    subprocess.run([*initdb, "--pwfile", str(folder / "password")], check=True, capture_output=True, cwd="/")
    control = [*as_owner, str(found[-1] / "pg_ctl"), "-D", str(folder / "data")]
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    subprocess.run(
        [*control, "-w", "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd="/",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"postgresql://prefect:s3cret-word@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


def sql(url: str, text: str) -> str:
    done = subprocess.run(["psql", "-At", url, "-c", text], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_postgres_is_dumped_and_put_back(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_DATABASE_URL", postgres)
    store = Store.at(tmp_path / "ws")
    sql(postgres, "CREATE TABLE runs (n INTEGER); INSERT INTO runs VALUES (7)")
    with database_copy(store, tmp_path / "copy") as found:
        sql(postgres, "DROP TABLE runs")
        put_back(store, POSTGRES, found[POSTGRES])
    assert sql(postgres, "SELECT n FROM runs") == "7"
