"""The driver's side of its worker processes: starting, watching, ending.

Workers fork from a server process that has imported the stage already, so a new one costs milliseconds. The driver
looks at every worker a few times a second: at its memory, at the time its unit takes, and at its board, which names
the document in work and when that is overdue.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import types
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from infra.execution.attempts import Death
from infra.execution.base import UnitTask
from infra.execution.limits import Board
from infra.execution.worker import Answer, Assignment, worker_main

JOIN_S = 10.0
RECYCLE_FRACTION = 0.6
PRELOADED = ("infra.execution.worker", "pyarrow.dataset", "pandas")
"""What the fork server imports beside the run's first stage, for the workers of all its stages. (pyarrow looks for pandas at
its first list of values.) To import another stage takes a tenth of a second, a server of its own two thirds."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True)
class PoolSettings:
    """What every executor of worker processes is told."""

    workers: int = 2
    """Units at a time; a Ray cluster has the cores it has, and counts only them."""
    memory_bytes: int | None = None
    """Cap of one worker's own memory; None: no cap."""
    unit_timeout_s: float | None = None
    attempts: int = 3
    backoff_s: float = 1.0
    threads: int = 1
    """Threads a worker's libraries may use."""


@dataclass(frozen=True)
class UnitLimits:
    """What a worker may use for one unit."""

    memory_bytes: int | None = None
    unit_timeout_s: float | None = None


@dataclass
class WorkerHandle:
    """One worker process as the driver sees it."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    board: Board
    board_path: Path
    assignment: Assignment | None = None
    since: float = 0.0
    opened: bool = False
    verdict: Death | None = field(default=None)
    """Set when the driver decided to end it."""

    @classmethod
    def start(cls, task: UnitTask, threads: int) -> "WorkerHandle":
        scratch = Path(task.scratch_root)
        scratch.mkdir(parents=True, exist_ok=True)
        board_path = scratch / f"board-{uuid.uuid4().hex[:8]}"
        board = Board(board_path)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOADED, task.module])
        environment = {name: str(threads) for name in THREAD_VARIABLES}
        # The fork server would import what lies in the working folder and bears a module's name.
        environment |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONSAFEPATH": "1"}
        ours, theirs = context.Pipe()
        # The fork server keeps the environment it was started with; a worker works in that of its driver, now.
        process = context.Process(
            target=worker_main,
            args=(task, theirs, board_path, {**os.environ, **environment}),
            name="headwater-worker",
            daemon=True,
        )
        with _environment(environment), _without_main():
            process.start()
        theirs.close()
        return cls(process, ours, board, board_path)

    @property
    def sources(self) -> tuple[Connection, int]:
        """What to wait on: its messages, and its death."""
        return self.connection, self.process.sentinel

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def assign(self, assignment: Assignment) -> bool:
        """Hand it a unit; False if it is dead."""
        self.assignment, self.since = assignment, time.monotonic()
        try:
            self.connection.send(assignment)
        except OSError:
            return False
        return True

    def receive(self) -> Answer | None:
        """The next message, or None if the worker is gone. Call it when the connection or the sentinel is ready."""
        try:
            if not self.connection.poll():
                return None
            message: Answer = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def watch(self, limits: UnitLimits) -> None:
        """Kill the worker if its document or unit is overdue or its memory is over the cap."""
        if self.assignment is None or self.verdict is not None:
            return
        now = time.monotonic()
        current = self.board.current()
        if current and now > current[1]:
            self._kill(Death("document timeout", f"document {current[0]} did not end in time", current[0]))
        elif limits.unit_timeout_s and now - self.since > limits.unit_timeout_s:
            self._kill(Death("unit timeout", f"the unit took longer than {limits.unit_timeout_s:g} s"))
        elif limits.memory_bytes and (used := private_memory(self.pid)) > limits.memory_bytes:
            text = f"the worker used {used >> 20} MB, more than its {limits.memory_bytes >> 20} MB"
            self._kill(Death("memory", text, current[0] if current else ""))

    def _kill(self, verdict: Death) -> None:
        self.verdict = verdict
        self.process.kill()

    def death(self) -> Death:
        """Why it died; call once it is known to be gone."""
        self.process.join(JOIN_S)
        if self.verdict:
            return self.verdict
        current = self.board.current()
        code = self.process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return Death("death", f"the worker process ended ({how})", current[0] if current else "")

    def must_be_replaced(self, memory_bytes: int | None) -> bool:
        """Condemned as it finished, or its libraries have kept so much memory that the next unit would pay for it."""
        kept_too_much = memory_bytes and private_memory(self.pid) > RECYCLE_FRACTION * memory_bytes
        return self.verdict is not None or bool(kept_too_much)

    def stop(self) -> None:
        """End it now. Receipts are on the disk before they are reported, so nothing is lost by a kill."""
        self.process.kill()
        self.process.join(JOIN_S)
        self.connection.close()
        self.board.close()
        self.board_path.unlink(missing_ok=True)


def private_memory(pid: int) -> int:
    """Resident bytes that belong to the process. Pages of mapped files (Arrow, models) do not count: they are the page
    cache's, and the kernel takes them back when it needs them. 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
        fields = dict(line.split(b":", 1) for line in lines if b":" in line)
        return sum(int(fields[name].split()[0]) * 1024 for name in (b"RssAnon", b"RssShmem") if name in fields)
    except FileNotFoundError:
        pass
    except ProcessLookupError:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)  # not Linux
    except psutil.Error:
        return 0


def clear_scratch(task: UnitTask, unit: str) -> None:
    """Remove what a killed attempt left."""
    for folder in Path(task.scratch_root).glob(f"{unit}-*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The fork server reads thread counts from the environment when it starts, which is with the first worker."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep workers from importing the program's own script, as multiprocessing otherwise makes them do."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
