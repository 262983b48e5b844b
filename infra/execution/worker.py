"""The worker process: opens a task once, then processes the units it is handed until it is told to stop.

A worker must not outlive its driver, however the driver ends. It is a child of the fork server and not of the driver,
so a parent-death signal would watch the wrong process; and a thread that watches is deaf while C code holds the
interpreter lock. Instead the kernel is asked to send SIGIO, whose default action ends the process, when the pipe that
only the driver holds open is closed.
"""

import fcntl
import multiprocessing
import os
import select
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from infra.execution.base import Failure, UnitTask, describe_failure, open_task, run_unit
from infra.execution.limits import Board, UnitGuard
from infra.stage import Receipt, Unit

START_FAILED_EXIT = 75


@dataclass(frozen=True)
class Assignment:
    """A unit handed to a worker. ``quarantine`` names documents that ended a worker in an earlier attempt."""

    unit: Unit
    attempt: int = 1
    quarantine: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Opened:
    """The worker is ready: from now on the unit's time counts."""


@dataclass(frozen=True)
class StartFailed:
    """The task cannot be opened: no unit of it can be processed."""

    failure: Failure


Answer = Opened | StartFailed | Receipt | Failure


def worker_main(task: UnitTask, connection: Connection, board_path: Path, environment: dict[str, str]) -> None:
    """The body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the driver decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_driver()
    os.environ.update(environment)
    board = Board(board_path)
    try:
        opened = open_task(task)
    except Exception as error:
        connection.send(StartFailed(describe_failure(error)))
        raise SystemExit(START_FAILED_EXIT) from None
    connection.send(Opened())
    while (assignment := _receive(connection)) is not None:
        try:
            answer: Answer = run_unit(
                opened, assignment.unit, assignment.attempt, UnitGuard(board, assignment.quarantine)
            )
        except Exception as error:
            answer = describe_failure(error)
        connection.send(answer)


def _receive(connection: Connection) -> Assignment | None:
    try:
        assignment: Assignment | None = connection.recv()
    except EOFError:  # the driver is gone
        return None
    return assignment


def _die_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is None:
        return
    pipe = driver.sentinel
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if poll.poll(0):  # it died before we asked to be told
        os.kill(os.getpid(), signal.SIGKILL)
