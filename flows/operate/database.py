"""A copy of the Prefect server's database, and bringing it back.

SQLite (below the workspace) is copied by its own online backup, which is consistent while the server runs. PostgreSQL is
copied by ``pg_dump`` and restored by ``pg_restore``, which find it through the environment: its password stands on no
command line.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flows.operate.credentials import private_folder
from flows.operate.server import prefect_home, running_server
from infra.errors import ConfigError, HeadwaterError
from infra.store.store import Store

DATABASE_URL = "HEADWATER_DATABASE_URL"
SQLITE, POSTGRES = "prefect.db", "prefect.dump"


@contextmanager
def database_copy(store: Store, folder: Path, *, wanted: bool = True) -> Iterator[dict[str, Path]]:
    """A consistent copy of the database as a file in ``folder``, by name; nothing if there is none or it is not wanted."""
    url = os.environ.get(DATABASE_URL)
    source = prefect_home(store) / SQLITE
    private_folder(folder)  # the database holds what automations were trusted with
    try:
        if url and wanted:
            yield {POSTGRES: _dump(url, folder / POSTGRES)}
        elif source.exists() and wanted:
            yield {SQLITE: _copy(source, folder / SQLITE)}
        else:
            yield {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_back(store: Store, name: str, file: Path) -> None:
    """Replace the database by a copy. Raises if its server is running."""
    if name == POSTGRES:
        url = os.environ.get(DATABASE_URL)
        if not url:
            raise ConfigError(
                "the backup holds a PostgreSQL database",
                remedy=f"Say where to restore it: {DATABASE_URL}=postgresql://…",
            )
        _run(
            ["pg_restore", "--clean", "--if-exists", "--no-owner", "--exit-on-error", "-d", _name(url), str(file)], url
        )
        return
    target = private_folder(prefect_home(store)) / SQLITE
    for left in target.parent.glob(f"{SQLITE}-*"):  # the write-ahead log of the database that is replaced
        left.unlink()
    os.replace(file, target)
    target.chmod(0o600)


def refuse_while_serving(store: Store) -> None:
    address = running_server(store)
    if address is not None:
        raise HeadwaterError(
            "the Prefect server is running, and its database cannot be replaced under it",
            where=address,
            remedy="Stop it first, or leave the database out: --no-database.",
        )


def _copy(source: Path, target: Path) -> Path:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        found = copy.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise HeadwaterError(
            f"the server's database is damaged: {found}", where=str(source), remedy="Use an older backup."
        )
    return target


def _dump(url: str, target: Path) -> Path:
    _run(["pg_dump", "--format", "custom", "--no-owner", "--file", str(target), _name(url)], url)
    return target


def _name(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _run(command: list[str], url: str) -> None:
    parts = urlsplit(url)
    known = {
        "PGHOST": parts.hostname, "PGPORT": str(parts.port) if parts.port else None,
        "PGUSER": unquote(parts.username) if parts.username else None,
        "PGPASSWORD": unquote(parts.password) if parts.password else None,
    }  # fmt: skip
    environment = os.environ | {name: value for name, value in known.items() if value}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HeadwaterError(
            f"{command[0]} is not installed here",
            remedy="Install the client of your PostgreSQL's version, or --no-database.",
        ) from None
    if done.returncode != 0:
        raise HeadwaterError(
            f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}",
            where=f"{parts.hostname or 'local'}{parts.path}",
            remedy="Check the address and that the client is not older than the server.",
        )
