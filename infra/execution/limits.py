"""A time limit for one document, inside a worker, without a process a document.

Three fences, each behind the other:

* an interval timer raises ``DocumentTimeout`` in the worker's main thread: enough for Python code and for most
  libraries;
* code that never returns to the interpreter (a parser in C) cannot see that signal. The limit is therefore also
  written to the worker's *board*, a few bytes shared with the driver, which kills a worker that overstays;
* a document that killed its worker (too slow, too much memory, a crash) is named on the board. The unit is tried
  again with that document in quarantine: ``time_limit`` raises ``DocumentCrash`` for it at once, and every other
  document of the unit is processed.

    try:
        with time_limit(20.0, document=identity.hex()):
            text = extract(html)
    except DocumentLost as lost:          # both kinds
        ... one ledger row, rule lost.rule
"""

import contextlib
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

BACKSTOP_FACTOR = 2.0
BACKSTOP_MARGIN_S = 5.0
REFIRE_S = 0.5


class DocumentLost(Exception):
    """This document cannot be processed; the others of its unit can."""

    rule = "lost"


class DocumentTimeout(DocumentLost):
    """The document took longer than its limit."""

    rule = "timeout"


class DocumentCrash(DocumentLost):
    """The document ended its worker process in an earlier attempt."""

    rule = "crash"


class Board:
    """What a worker is doing right now, readable by the driver even when the worker hangs or is dead.

    One small memory-mapped file for each worker: the time (CLOCK_MONOTONIC, the same for all processes of a machine) at
    which the current document becomes overdue, and its name.
    """

    _HEAD = struct.Struct("<dH")
    SIZE = 512

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, self.SIZE)
            self._map = mmap.mmap(handle, self.SIZE)
        finally:
            os.close(handle)

    def enter(self, document: str, overdue: float) -> None:
        name = document.encode()[: self.SIZE - self._HEAD.size]
        self._map[self._HEAD.size : self._HEAD.size + len(name)] = name
        self._map[: self._HEAD.size] = self._HEAD.pack(overdue, len(name))

    def leave(self) -> None:
        self._map[: self._HEAD.size] = self._HEAD.pack(0.0, 0)

    def current(self) -> tuple[str, float] | None:
        """The document in work and when it becomes overdue, or None."""
        overdue, length = self._HEAD.unpack(self._map[: self._HEAD.size])
        if not overdue:
            return None
        return self._map[self._HEAD.size : self._HEAD.size + length].decode(errors="replace"), overdue

    def close(self) -> None:
        self._map.close()


@dataclass
class UnitGuard:
    """The guard of the unit in work: the worker's board and the documents that must not be tried again."""

    board: Board | None = None
    quarantine: frozenset[str] = field(default_factory=frozenset)


_guard: ContextVar[UnitGuard] = ContextVar("unit_guard")


@contextlib.contextmanager
def guarded_unit(guard: UnitGuard) -> Iterator[None]:
    """Make ``time_limit`` use this guard; called by the worker around each unit."""
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


@contextlib.contextmanager
def time_limit(seconds: float, document: str = "") -> Iterator[None]:
    """Raise ``DocumentTimeout`` in the body once ``seconds`` have passed; ``DocumentCrash`` if it is in quarantine.

    ``document`` names the document uniquely within its unit (its id in hex). Without a name, a document that kills its
    worker costs the unit. May be nested. In another thread than the main one only the driver's fence stands.
    """
    guard = _guard.get(None) or UnitGuard()
    if document and document in guard.quarantine:
        raise DocumentCrash("ended its worker process in an earlier attempt (time, memory or a crash)")
    if guard.board:
        guard.board.enter(document, time.monotonic() + seconds * BACKSTOP_FACTOR + BACKSTOP_MARGIN_S)
    try:
        with _alarm(seconds) if threading.current_thread() is threading.main_thread() else contextlib.nullcontext():
            yield
    finally:
        if guard.board:
            guard.board.leave()


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """SIGALRM as an exception. It fires again and again: libraries swallow exceptions in broad handlers, and a result
    made after a swallowed timeout would depend on the machine's speed, so it is raised once more at the end."""
    armed = True
    fired = False

    def expire(_signal: int, _frame: FrameType | None) -> None:
        nonlocal fired
        if armed:
            fired = True
            raise DocumentTimeout(f"took longer than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, expire)
    began = time.monotonic()
    outer_left, outer_interval = signal.setitimer(signal.ITIMER_REAL, seconds, REFIRE_S)
    try:
        try:
            yield
        finally:
            armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer_left:
            # A limit around this one goes on with what is left of it (at least a moment, so that it still fires).
            left = max(outer_left - (time.monotonic() - began), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, outer_interval)
    if fired:
        raise DocumentTimeout(f"took longer than {seconds:g} s")
