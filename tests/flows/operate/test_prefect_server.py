"""Prefect's transactions on SQLite take turns as writers, and a refused statement leaves nothing behind that blocks."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import pytest
import sqlalchemy as sa
from prefect.server.api import server
from prefect.server.database import configurations
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from flows.operate.prefect_server import add_ours, begin_as_writer, closed_if_refused, wait_in_turn

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
    add_ours(frozenset({"127.0.0.1"}))
    served = TestClient(server.create_app(final=True), base_url="http://127.0.0.1:4200")
    assert served.get("/api/health").text == "true"
    assert served.get("/api/health", headers={"host": "prefect-in-memory"}).status_code == 421
    routes = list(app.router.routes)
    own = TestClient(server.create_app(), base_url="http://prefect-in-memory")
    assert own.get("/api/health").text == "true"
    assert app.router.routes == routes, "nothing is added twice"
