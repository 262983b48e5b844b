"""What is replaced inside Prefect: each must be there to be replaced, and do what ours is written to do."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiosqlite
import anyio
import httpx
import pytest
import sqlalchemy as sa
from prefect import flow_engine
from prefect._internal import observers
from prefect.server.api import server
from prefect.server.database import configurations
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.utilities import services
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from flows.operate.doors import add_doors
from flows.operate.prefect_internals import (
    add_to_server,
    begin_as_writer,
    closed_if_refused,
    leave_heartbeats_behind,
    polled_without_end,
    wait_in_turn,
)
from flows.operate.report_pages import mount_reports
from tests.flows.cluster import wait_for

INCREMENT = sa.text("UPDATE counter SET n = n + 1")
READ = sa.text("SELECT n FROM counter")


@pytest.fixture
def database(tmp_path: Path) -> AioSqliteConfiguration:
    file = tmp_path / "prefect.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript("CREATE TABLE counter (n INTEGER NOT NULL); INSERT INTO counter VALUES (0)")
    return AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{file}")


@asynccontextmanager
async def session_of(database: AioSqliteConfiguration) -> AsyncIterator[AsyncSession]:
    async with await database.session(await database.engine()) as session:
        yield session


async def read_then_write(database: AioSqliteConfiguration) -> None:
    """What most of the server's requests do. Two that meet between reading and writing are the trouble."""
    async with session_of(database) as session, database.begin_transaction(session):
        await session.execute(READ)
        await asyncio.sleep(0.05)
        await session.execute(INCREMENT)


async def count(database: AioSqliteConfiguration) -> int:
    async with session_of(database) as session:
        return int((await session.execute(READ)).scalar_one())


def test_transactions_that_read_first_take_turns(
    database: AioSqliteConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def together() -> int:
        await asyncio.gather(*(read_then_write(database) for _ in range(4)))
        return await count(database)

    with pytest.raises(
        OperationalError, match="database is locked"
    ):  # Prefect's own way; without it this module can go
        asyncio.run(together())
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", begin_as_writer)
    before = asyncio.run(count(database))
    assert asyncio.run(together()) == before + 4


def test_what_is_read_within_a_transaction_waits_for_nobody(
    database: AioSqliteConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", begin_as_writer)

    async def nested() -> tuple[int, int]:
        async with session_of(database) as outer, database.begin_transaction(outer):
            await outer.execute(INCREMENT)
            plain = await count(database)
            async with session_of(database) as inner, database.begin_transaction(inner):
                begun = int((await inner.execute(READ)).scalar_one())
        assert configurations.SQLITE_BEGIN_MODE.get() is None
        return plain, begun

    assert asyncio.run(asyncio.wait_for(nested(), 10)) == (0, 0), "the outer transaction has not ended"
    assert asyncio.run(count(database)) == 1


def test_a_transaction_that_fails_changes_nothing(
    database: AioSqliteConfiguration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", begin_as_writer)

    async def failing() -> None:
        async with session_of(database) as session, database.begin_transaction(session):
            await session.execute(INCREMENT)
            raise ValueError

    with pytest.raises(ValueError):
        asyncio.run(failing())
    assert asyncio.run(count(database)) == 0
    asyncio.run(read_then_write(database))
    assert asyncio.run(count(database)) == 1


@pytest.mark.parametrize(("name", "values"), [("execute", (None,)), ("executemany", [(1,), (None,)])])
def test_the_cursor_of_a_refused_statement_is_closed(
    name: str, values: Sequence[object], database: AioSqliteConfiguration
) -> None:
    run = closed_if_refused(getattr(aiosqlite.Cursor, name))

    async def refused() -> None:
        file = database.connection_url.split("///")[1]
        async with aiosqlite.connect(file) as connection:
            cursor = await connection.cursor()
            with pytest.raises(sqlite3.IntegrityError):
                await run(cursor, "INSERT INTO counter VALUES (?)", values)
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                await cursor.execute("SELECT 1")

    asyncio.run(refused())


def test_prefect_and_aiosqlite_are_as_this_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    plain = {}
    for name in ("execute", "executemany"):
        plain[name] = getattr(aiosqlite.Cursor, name)
        monkeypatch.setattr(aiosqlite.Cursor, name, plain[name])
    wait_in_turn()
    assert AioSqliteConfiguration.begin_transaction is begin_as_writer
    assert all(getattr(aiosqlite.Cursor, name).__wrapped__ is plain[name] for name in plain)


def test_the_server_still_reaches_itself_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an automation does: it makes the application again, and gets the one that runs, by a name that is no host's."""
    app = Starlette(routes=[Route("/api/health", lambda request: PlainTextResponse("true"))])
    monkeypatch.setattr(server, "create_app", lambda **_: app)
    add_to_server(lambda served: add_doors(mount_reports(served), frozenset({"127.0.0.1"})))
    served = TestClient(server.create_app(final=True), base_url="http://127.0.0.1:4200")
    assert served.get("/api/health").text == "true"
    assert served.get("/api/health", headers={"host": "prefect-in-memory"}).status_code == 421
    routes = list(app.router.routes)
    own = TestClient(server.create_app(), base_url="http://prefect-in-memory")
    assert own.get("/api/health").text == "true"
    assert app.router.routes == routes, "nothing is added twice"


ECHO = """
import pathlib, sys, time
from rich.console import Console
from flows.operate.prefect_internals import outlive_worker
outlive_worker()
console = Console(file=sys.stderr)
console.print("begins")
sys.stdin.readline()
console.print("nobody reads this")
console.print("nor this")
print("nor this", flush=True)
pathlib.Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize("by_worker", [True, False])
def test_a_run_without_a_reader_goes_on_and_a_command_ends(tmp_path: Path, by_worker: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT__FLOW_RUN_ID"}
    if by_worker:
        environment["PREFECT__FLOW_RUN_ID"] = "00000000-0000-0000-0000-000000000000"
    run = subprocess.Popen(
        [sys.executable, "-c", ECHO, str(tmp_path / "result")],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert run.stdin is not None
    assert run.stdout is not None
    assert run.stdout.readline() == b"begins\n"
    run.stdout.close()
    run.stdin.write(b"\n")
    run.stdin.close()
    assert run.wait(60) == (0 if by_worker else 1)
    assert (tmp_path / "result").exists() == by_worker


def test_prefect_polls_by_the_function_that_is_replaced() -> None:
    assert "critical_service_loop" in vars(observers)
    assert "critical_service_loop" in observers.FlowRunCancellingObserver._start_polling_task.__code__.co_names


def test_an_error_threshold_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up: list[dict[str, object]] = []

    async def loop(*arguments: object, **options: object) -> None:
        given_up.append(options)
        if len(given_up) < 3:
            raise RuntimeError("Service exceeded error threshold.")

    monkeypatch.setattr("prefect.utilities.services.critical_service_loop", loop)
    anyio.run(polled_without_end)
    assert len(given_up) == 3


def test_prefects_own_loop_gives_up_with_that_error() -> None:
    async def away() -> None:
        raise httpx.ConnectError("the server is away")

    async def polled() -> None:
        await services.critical_service_loop(away, interval=0.01, consecutive=1, backoff=1, printer=lambda *text: None)

    with pytest.raises(RuntimeError):
        anyio.run(polled)


@dataclass
class Engine:
    """What Prefect's heartbeat asks of a flow run's engine."""

    heartbeat_seconds: int = 30
    flow_run: None = None
    logger: Any = field(default_factory=lambda: SimpleNamespace(debug=lambda *text, **options: None))
    beats: int = 0

    def _build_heartbeat_event_template(self) -> tuple[dict[str, str], list[str]]:
        return {}, []

    def _emit_flow_run_heartbeat(self, resource: object, related: object) -> None:
        self.beats += 1


def test_the_end_does_not_wait_for_a_sleeping_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_engine, "_send_heartbeats", flow_engine._send_heartbeats)  # put back afterwards
    before, ends = threading.active_count(), []
    for _ in range(3):
        leave_heartbeats_behind()
        engine: Any = Engine()
        with flow_engine._send_heartbeats(engine):
            wait_for(lambda engine=engine: engine.beats == 1, 5, "a heartbeat")  # type: ignore[misc]
            began = time.monotonic()
        ends.append(time.monotonic() - began)
    assert max(ends) < 0.25, "the thread sleeps for a second after its beat"
    wait_for(lambda: threading.active_count() <= before, 5, "the threads to end")
    assert engine.beats == 1
