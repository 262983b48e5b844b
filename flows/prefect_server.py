"""Prefect's server, with the workspace's reports (``flows.report_pages``), and without its two kinds of waiting for SQLite.

    python -m flows.prefect_server --host HOST --port PORT        as ``prefect server start``

SQLite has one writer at a time. Prefect 3.8 begins its transactions as readers and makes them writers at their first
change; when another one has written meanwhile, SQLite refuses at once, whatever the time it may wait ("database is
locked"), and the client tries again seconds later. Here a transaction asks to be the writer when it begins, and waits its
turn, which is milliseconds. With PostgreSQL nothing is changed.

The refusal has a second consequence, which stops the whole server for a minute. The cursor of the refused statement is
left to the garbage collector, in a cycle with its traceback. Collecting it takes the mutex of its connection, and that is
held for up to the 60 s of the busy timeout by the thread in which the connection waits for the writer: but the writer is
driven by the event loop, in whose thread the collector runs. So here a cursor whose statement failed is closed at once, in
its connection's own thread.
"""

import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import aiosqlite
from fastapi import FastAPI
from prefect.cli import app
from prefect.server.api import server
from prefect.server.database import configurations
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from flows.report_pages import mount_reports


@asynccontextmanager
async def begin_as_writer(
    self: object, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """``AioSqliteConfiguration.begin_transaction``, with ``BEGIN IMMEDIATE`` here and now.

    One within another one of the same task would wait for the outer one until SQLite gives up: it begins as a reader, and so
    does whatever else the task reads meanwhile in sessions of its own.
    """
    mode = configurations.SQLITE_BEGIN_MODE
    outermost = mode.get() is None
    async with session.begin() as transaction:
        token = mode.set("IMMEDIATE" if outermost or with_for_update else "DEFERRED")
        try:
            await session.connection()  # a session begins when it is first used
        finally:
            mode.reset(token)
        token = mode.set("DEFERRED")
        try:
            yield transaction
        finally:
            mode.reset(token)


def closed_if_refused(execute: Callable[..., Any]) -> Callable[..., Any]:
    """``aiosqlite.Cursor.execute`` or ``executemany``, which closes the cursor if its statement fails."""

    @wraps(execute)
    async def run(self: aiosqlite.Cursor, sql: str, parameters: Iterable[Any] | None = None) -> aiosqlite.Cursor:
        try:
            return await execute(self, sql, parameters)  # type: ignore[no-any-return]
        except sqlite3.Error:
            await self.close()
            raise

    return run


def wait_in_turn() -> None:
    """For every SQLite database that this process's Prefect opens from now on."""
    configurations.AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign]
    for name in ("execute", "executemany"):
        setattr(aiosqlite.Cursor, name, closed_if_refused(getattr(aiosqlite.Cursor, name)))


def show_reports() -> None:
    """On every server that this process makes from now on."""
    create_app = server.create_app

    @wraps(create_app)
    def with_reports(*arguments: Any, **settings: Any) -> FastAPI:
        made = create_app(*arguments, **settings)
        mount_reports(made)
        return made

    server.create_app = with_reports


if __name__ == "__main__":
    wait_in_turn()
    show_reports()
    sys.argv[1:1] = ["server", "start"]
    app()
