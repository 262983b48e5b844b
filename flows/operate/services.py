"""Child processes that are to be there as long as this one: each below a guard, with a log, started again when it dies.

A guard ends with nothing left below it, so a service that has ended took everything it started along. One that dies
again and again has a cause that another start does not mend: after ``RESTARTS`` within ``WINDOW_S`` that is an error.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import HeadwaterError
from infra.launch.guard import guarded

RESTARTS = 3
WINDOW_S = 300.0


@dataclass
class Service:
    """A command of this Python below a guard; started when it is made."""

    name: str
    arguments: list[str]
    log: Path
    grace_s: float
    """Seconds between TERM and KILL."""
    guard: subprocess.Popen[bytes] = field(init=False)
    deaths: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.log.unlink(missing_ok=True)
        self._start()

    def ended(self) -> bool:
        return self.guard.poll() is not None

    def check(self) -> None:
        """Raise if it has ended."""
        if self.ended():
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            raise HeadwaterError(
                f"the Prefect {self.name} ended: {lines[-1] if lines else 'its log is empty'}",
                where=str(self.log),
                remedy="Read the log, mend the cause and start again.",
            )

    def restart(self, say: Callable[[str], None]) -> None:
        """Start it once more, below its log so far. Raises if it died too often lately."""
        now = time.monotonic()
        self.deaths = [*(death for death in self.deaths if now - death < WINDOW_S), now]
        if len(self.deaths) > RESTARTS:
            self.check()
        say(f"The Prefect {self.name} ended and is started again. Its log: {self.log}")
        self._start()

    def stop(self) -> None:
        """End it and everything below it: TERM, and after its grace KILL."""
        self.guard.terminate()
        try:
            self.guard.wait(self.grace_s + 5)
        except subprocess.TimeoutExpired:
            self.guard.terminate()  # a guard's second TERM means now
            self.guard.wait(30)

    def _start(self) -> None:
        with self.log.open("ab") as stream:
            self.guard = subprocess.Popen(
                guarded([sys.executable, *self.arguments], self.grace_s),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we end the services in order
            )


@contextmanager
def service(name: str, arguments: list[str], logs: Path, grace_s: float) -> Iterator[Service]:
    """Started now, and stopped at the end however that comes."""
    started = Service(name, arguments, logs / f"{name}.log", grace_s)
    try:
        yield started
    finally:
        with _uninterrupted():
            started.stop()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave the other services running."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
