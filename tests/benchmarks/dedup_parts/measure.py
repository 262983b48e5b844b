"""Running one system in a process of its own, and what it took."""

import json
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.errors import HeadwaterError
from tests.support import REPOSITORY

_PAGE = 4096


@dataclass(frozen=True)
class Measured:
    """What a program printed as its last line (JSON), and the most private memory it and its children held."""

    result: dict[str, Any]
    memory_mb: float
    """All processes together."""
    worker_mb: float
    """The largest single process."""
    seconds: float
    root_mb: float
    """The program's own process."""
    child_mb: float
    """The largest of its descendants."""
    cpu_seconds: float
    """Of all processes together: on a busy machine steadier than the clock."""


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a program to its end. Raises with its last words if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
    )
    sampler = _Sampler(process.pid)
    sampler.start()
    out, error = process.communicate()
    sampler.stop()
    if process.returncode:
        raise HeadwaterError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {(error or out).strip()[-400:]}",
            remedy="See the message; a peer can be left out with --skip-peers.",
        )
    lines = [line for line in out.splitlines() if line.startswith("{")]
    seconds = time.perf_counter() - started
    return Measured(
        json.loads(lines[-1]),
        memory_mb=sampler.total / 2**20,
        worker_mb=max(sampler.root, sampler.child) / 2**20,
        seconds=seconds,
        root_mb=sampler.root / 2**20,
        child_mb=sampler.child / 2**20,
        cpu_seconds=sum(sampler.cpu.values()),
    )


class _Sampler(threading.Thread):
    """Looks at the memory and the processor time of a process and its descendants twenty times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self.total = 0
        self.root = 0
        self.child = 0
        self.cpu: dict[int, float] = {}

    def run(self) -> None:
        while not self._ended.wait(0.05):
            try:
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            sizes = [_private(process.pid) for process in family]
            self.cpu |= {process.pid: spent for process in family if (spent := _cpu(process))}
            self.total = max(self.total, sum(sizes))
            self.root = max(self.root, sizes[0])
            self.child = max(self.child, *sizes[1:], 0)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _private(pid: int) -> int:
    """Resident bytes that are not shared with files or other processes."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * _PAGE
