"""The inside of Prefect: every private name of it that we replace, with the version it was written against.

Prefect 3.8 is what ``pyproject.toml`` admits; all of this was written against 3.8.4 to 3.8.8. With another minor version
each entry is to be looked at again, and ``tests/flows/operate`` says which of them no longer fits.

| replaced | by | because |
|---|---|---|
| ``flow_engine._send_heartbeats`` | ``leave_heartbeats_behind`` | a flow's end waits for a sleeping thread |
| ``rich.Console.on_broken_pipe`` | ``outlive_worker`` | a run whose worker died must not die of its echo |
| some lines of ``prefect.engine`` | ``leave_out_repetitions`` | an end is told twice, a failure with a traceback |
| ``_internal.observers.critical_service_loop`` | ``poll_without_end`` | after an outage no cancellation arrives |
| ``AioSqliteConfiguration.begin_transaction`` | ``wait_in_turn`` | SQLite refuses a reader that becomes a writer, at once |
| ``aiosqlite.Cursor.execute``, ``executemany`` | ``wait_in_turn`` | a refused one stops the server for a minute |
| ``server.api.server.create_app`` | ``add_to_server`` | there is no hook for pages of our own |

Used and not replaced: ``_flow_run_suspension`` (``operate.children``), ``_internal.control_listener`` (``flows.cancellation``),
``BaseWorker._submit_run`` and what it keeps of runs in flight (``operate.worker``), ``DockerWorker._build_container_settings``
(``operate.containers``).

The server's part of Prefect is imported by the functions that change it: flows and workers run without.
"""

import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    import aiosqlite
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
SAID_AGAIN = ("Finished in state ", "Task run failed with ")
TRACED_AGAIN = ("Engine execution exited with unexpected exception", "Execution of flow run ")

log = logging.getLogger("headwater")


# ---- in the process of a flow run -----------------------------------------------------------------------------------


def leave_heartbeats_behind() -> None:
    """For every flow that begins in this process from now on: its end does not wait for its heartbeat.

    Prefect tells the server of a run's life from a thread that sleeps in whole seconds, and a synchronous flow waits for
    that thread: half a second a stage, which was a third of what orchestration cost. An asynchronous flow does not. The
    thread has been told to stop, beats no more, and ends within a second.
    """
    from prefect import flow_engine

    send = flow_engine._send_heartbeats
    if not isinstance(send, partial):
        flow_engine._send_heartbeats = partial(send, join_on_exit=False)


def outlive_worker() -> None:
    """Called once the process of a flow run is set up; does nothing in a process that no worker started.

    The worker reads what the run prints from a pipe. Without a reader the next line of the log fails, and rich, with which
    Prefect writes it, then ends the process, as suits a command in ``command | head``. Here it loses only its echo: the
    server has the log as well.
    """
    if STARTED_BY_WORKER in os.environ:
        Console.on_broken_pipe = _print_no_more  # type: ignore[method-assign, assignment]


def _print_no_more(console: Console) -> None:
    """Both streams, whichever it was: they lead to the same worker."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


class Repetitions(logging.Filter):
    """Leaves out what Prefect says of an end that our own line has told."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        traced_again = record.exc_info is not None and message.startswith(TRACED_AGAIN)
        return not (traced_again or message.startswith(SAID_AGAIN))


def leave_out_repetitions() -> None:
    """In this process, from now on."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, Repetitions) for each in logger.filters):
            logger.addFilter(Repetitions())


# ---- in a worker ----------------------------------------------------------------------------------------------------


def poll_without_end() -> None:
    """A worker hears of a run that is to be cancelled by a websocket, and polls when that breaks; after three polls without
    an answer Prefect gives up for good, and a run that outlived a minute without the network could not be cancelled."""
    from prefect._internal import observers

    observers.critical_service_loop = polled_without_end  # type: ignore[attr-defined]


async def polled_without_end(*arguments: Any, **options: Any) -> None:
    """``critical_service_loop`` without an end."""
    from prefect.utilities import services

    while True:
        try:
            return await services.critical_service_loop(*arguments, **{**options, "printer": lambda *text: None})
        except RuntimeError:  # its error threshold
            log.warning("the server does not answer: nothing can be cancelled until it does")


# ---- in the server --------------------------------------------------------------------------------------------------


def wait_in_turn() -> None:
    """For every SQLite database that this process's Prefect opens from now on. With PostgreSQL nothing is changed.

    SQLite has one writer at a time. Prefect 3.8 begins its transactions as readers and makes them writers at their first
    change; when another one has written meanwhile, SQLite refuses at once, whatever the time it may wait ("database is
    locked"), and the client tries again seconds later. Here a transaction asks to be the writer when it begins, and waits
    its turn, which is milliseconds.

    The refusal has a second consequence, which stops the whole server for a minute. The cursor of the refused statement is
    left to the garbage collector, in a cycle with its traceback. Collecting it takes the mutex of its connection, and that
    is held for up to the 60 s of the busy timeout by the thread in which the connection waits for the writer: but the
    writer is driven by the event loop, in whose thread the collector runs. So here a cursor whose statement failed is
    closed at once, in its connection's own thread.
    """
    import aiosqlite
    from prefect.server.database import configurations

    configurations.AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign]
    for name in ("execute", "executemany"):
        setattr(aiosqlite.Cursor, name, closed_if_refused(getattr(aiosqlite.Cursor, name)))


@asynccontextmanager
async def begin_as_writer(
    self: object, session: "AsyncSession", with_for_update: bool = False
) -> "AsyncGenerator[AsyncSessionTransaction, None]":
    """``AioSqliteConfiguration.begin_transaction``, with ``BEGIN IMMEDIATE`` here and now.

    One within another one of the same task would wait for the outer one until SQLite gives up: it begins as a reader, and so
    does whatever else the task reads meanwhile in sessions of its own.
    """
    from prefect.server.database import configurations

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
    async def run(self: "aiosqlite.Cursor", sql: str, parameters: Iterable[Any] | None = None) -> "aiosqlite.Cursor":
        try:
            return await execute(self, sql, parameters)  # type: ignore[no-any-return]
        except sqlite3.Error:
            await self.close()
            raise

    return run


def add_to_server(ours: Callable[[Any], Any]) -> None:
    """``ours`` is given the application that is served, and returns the one that is served instead.

    The server calls its own one in memory too (automations do), by a name that is nobody's: that way stays as it is.
    """
    from prefect.server.api import server

    create_app = server.create_app

    @wraps(create_app)
    def with_ours(*arguments: Any, **options: Any) -> Any:
        made = create_app(*arguments, **options)
        return ours(made) if options.get("final") else made

    server.create_app = with_ours
