"""Telling somebody how far a run is: a terminal, a log file, a server.

The driver reports; workers never do. A reporter that cannot be reached (a server that went away) is dropped with one
message and never stops the work.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from infra.store.manifest import Manifest

log = logging.getLogger("headwater")
REASONS = 4
"""Rules that a stage's last line names, the most frequent first."""


class Reporter(Protocol):
    """What a run tells. ``figures`` are counts (documents, kept) or measurements (loss) of the moment."""

    def stage_started(self, stage: str, action: str) -> None: ...

    def progress(
        self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None
    ) -> None: ...

    def message(self, stage: str, text: str) -> None: ...

    def stage_ended(self, stage: str, text: str) -> None: ...


@dataclass
class PlainReporter:
    """Lines for a log: progress at most every ``every_s`` seconds a stage."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    every_s: float = 10.0
    _last: dict[str, float] = field(default_factory=dict)

    def stage_started(self, stage: str, action: str) -> None:
        self._write(f"{stage}: {action}")

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        now = time.monotonic()
        if now - self._last.get(stage, float("-inf")) < self.every_s:
            return
        self._last[stage] = now
        self._write(f"{stage}: {describe_progress(done, total, figures, eta)}")

    def message(self, stage: str, text: str) -> None:
        self._write(f"{stage}: {text}")

    def stage_ended(self, stage: str, text: str) -> None:
        self._write(f"{stage}: {text}")

    def _write(self, line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", file=self.stream, flush=True)


class RichReporter:
    """One live line for the stage in work on a terminal; everything else scrolls above it. A context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "RichReporter":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def stage_started(self, stage: str, action: str) -> None:
        self._live.update(Text(f"{stage:<14} {action}", style="cyan"))

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        line = Table.grid(padding=(0, 1))
        share = min(1.0, done / total) if total else 0.0
        bar = Text("━" * round(share * 24), style="cyan") + Text("━" * (24 - round(share * 24)), style="bright_black")
        line.add_row(Text(f"{stage:<14}", style="bold"), bar, Text(describe_progress(done, total, figures, eta)))
        self._live.update(line)

    def message(self, stage: str, text: str) -> None:
        self._console.print(Text(f"{stage:<14} ", style="bold") + Text(text, style="bright_black"))

    def stage_ended(self, stage: str, text: str) -> None:
        self._live.update(Text(""))
        self._console.print(Text(f"{stage:<14} ", style="bold") + Text(text))


class Reporters:
    """Several reporters as one. One that raises is dropped: reporting is never a reason to stop the work."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = list(reporters)

    def stage_started(self, stage: str, action: str) -> None:
        self._tell("stage_started", stage, action)

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        self._tell("progress", stage, done, total, figures, eta)

    def message(self, stage: str, text: str) -> None:
        self._tell("message", stage, text)

    def stage_ended(self, stage: str, text: str) -> None:
        self._tell("stage_ended", stage, text)

    def _tell(self, method: str, *values: Any) -> None:
        for reporter in list(self._reporters):
            try:
                getattr(reporter, method)(*values)
            except Exception as error:
                self._reporters.remove(reporter)
                log.warning("%s is gone (%s); the run goes on without it", type(reporter).__name__, error)


@dataclass
class Pace:
    """How long work will take, by what was done since the first report of it.

    What comes before that (workers start, kernels are compiled, data is opened) says nothing of the rest, nor do two units
    that end together: there is no estimate before some seconds and two reports.
    """

    after_s: float = 3.0
    clock: Callable[[], float] = time.monotonic
    _first: tuple[float, float, float] | None = None

    def remaining(self, done: float, total: float) -> float | None:
        """Seconds left, or None while nothing can be said. Another total, or less done, is other work."""
        now = self.clock()
        if self._first is None or self._first[2] != total or done < self._first[1]:
            self._first = (now, done, total)
        elapsed, since = now - self._first[0], done - self._first[1]
        return (total - done) * elapsed / since if since > 0 and elapsed >= self.after_s else None


def describe_dataset(manifest: Manifest) -> str:
    """What came of a stage: ``kept 2,888 of 2,914 documents, dropped 26 (near 20, url 6)``, or how much it is."""
    counts = manifest.counts
    if not counts.incoming:
        rows = f"{manifest.rows:,} rows, " if manifest.rows else ""
        text = f"{rows}{manifest.bytes / 1e6:,.1f} MB"
    else:
        text = f"kept {counts.kept:,} of {counts.incoming:,} documents"
        dropped = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
        if dropped:
            reasons = ", ".join(f"{rule} {number:,}" for rule, number in dropped[:REASONS])
            more = ", …" if len(dropped) > REASONS else ""
            text += f", dropped {sum(counts.dropped.values()):,} ({reasons}{more})"
        if counts.failed:
            text += f", {counts.failed:,} failed"
    if not manifest.complete:
        text += f", incomplete: {len(manifest.units.failed):,} of {manifest.units.total:,} units are missing"
    warned = len(manifest.warnings)
    return text + (f", {warned} {'warning' if warned == 1 else 'warnings'}" if warned else "")


def describe_progress(done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> str:
    """``42 %, documents 1,204, kept 803, 2 min left``."""
    parts = [f"{100 * done / total:.0f} %"] if total else []
    parts += [f"{name} {_number(value)}" for name, value in figures.items() if isinstance(value, (int, float, str))]
    if eta is not None:
        parts.append(f"{describe_seconds(eta)} left")
    return ", ".join(parts)


def describe_bytes(number: float) -> str:
    """``1.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def describe_seconds(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
