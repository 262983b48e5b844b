"""Prefect's server: closed to strangers, with the workspace's reports, and without its two kinds of waiting for SQLite.

    python -m flows.operate.prefect_server [--host HOST] [--port PORT] …        as ``prefect server start``

Whoever may call its API may run programs here. So it asks for a password (of its home folder, if none is set), answers to
its own name and the pages of its own origin, and what it writes is its owner's alone (``flows.operate.credentials``,
``flows.operate.doors``). The reports (``flows.operate.report_pages``) are behind the same password.

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

import argparse
import os
import sqlite3
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import aiosqlite
from prefect.cli import app
from prefect.context import refresh_global_settings_context
from prefect.server.api import server
from prefect.server.database import configurations
from prefect.settings import get_current_settings
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from flows.operate.credentials import SERVER_AUTH, auth_string, generate_auth, use_auth
from flows.operate.doors import add_doors, allowed_names
from flows.operate.report_pages import mount_reports
from flows.operate.server import settings

ALLOWED_HOSTS = "HEADWATER_ALLOWED_HOSTS"


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


def closed_to_strangers(arguments: list[str]) -> frozenset[str] | None:
    """Settings of the server that this process is about to be; the names it answers to, None for any."""
    os.umask(0o077)
    home = get_current_settings().home
    for name, value in settings(home).items():
        os.environ.setdefault(name, value)
    use_auth(os.environ.get(SERVER_AUTH) or auth_string() or generate_auth(home), serving=True)
    refresh_global_settings_context()  # Prefect has read its settings when it was imported
    asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    asked.add_argument("--host", default=get_current_settings().server.api.host)
    return allowed_names(asked.parse_known_args(arguments)[0].host, os.environ.get(ALLOWED_HOSTS, ""))


def add_ours(names: frozenset[str] | None) -> None:
    """Reports and doors, on the application that is served. The server calls its own one in memory too (automations do), by a
    name that is nobody's: that way stays as it is."""
    create_app = server.create_app

    @wraps(create_app)
    def with_ours(*arguments: Any, **options: Any) -> Any:
        made = create_app(*arguments, **options)
        if not options.get("final"):
            return made
        mount_reports(made)
        return add_doors(made, names)

    server.create_app = with_ours


if __name__ == "__main__":
    names = closed_to_strangers(sys.argv[1:])
    wait_in_turn()
    add_ours(names)
    sys.argv[1:1] = ["server", "start"]
    app()
