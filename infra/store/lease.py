"""The lease: at most one run works on a dataset.

``lease.json`` is created exclusively and carries the owner's id and a heartbeat. A lease is stale once its heartbeat is
90 s old, or at once if its owner was a process of this host that no longer exists (a killed run is resumed without
waiting). Taking over, refreshing and releasing happen under an advisory lock, so two runs never both believe to own it.
The holder checks again before it publishes.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from infra.errors import HeadwaterError, LeaseLost
from infra.store.files import write_json

HEARTBEAT_S = 30.0
STALE_S = 90.0


class Lease:
    """Held between ``acquire`` and ``release``; usable as a context manager."""

    def __init__(self, folder: Path, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> None:
        self._path = folder / "lease.json"
        self._lock = folder / ".lease.lock"
        self._owner = uuid.uuid4().hex
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, *, wait: bool = True, on_wait: Callable[[str], None] | None = None) -> None:
        """Take the lease; ``wait`` for a living holder, or raise HeadwaterError at once."""
        told = False
        while True:
            with self._locked():
                holder = self._read()
                if holder is None or self._is_stale(holder):
                    self._write()
                    break
            who = f"{holder.get('host')} process {holder.get('pid')}"
            if not wait:
                raise HeadwaterError(
                    f"another run ({who}) is working on this dataset",
                    where=str(self._path.parent),
                    remedy="Wait for it to end, or stop it.",
                )
            if not told and on_wait:
                on_wait(f"waiting for another run ({who}) that is working on this dataset")
                told = True
            time.sleep(min(1.0, self._heartbeat_s))
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost if somebody else owns the lease now."""
        with self._locked():
            holder = self._read()
        if self._lost.is_set() or holder is None or holder["owner"] != self._owner:
            raise LeaseLost(
                "another run took over this dataset, so nothing of this run is published",
                where=str(self._path.parent),
                remedy="Let the other run finish; then run again.",
            )

    def release(self) -> None:
        """Give it back. The heartbeat ends first, so that it cannot see its own release as a loss."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(FileNotFoundError), self._locked():
            holder = self._read()
            if holder is not None and holder["owner"] == self._owner:
                self._path.unlink()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self) -> dict[str, Any] | None:
        try:
            holder: dict[str, Any] = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return holder

    def _write(self) -> None:
        write_json(
            self._path,
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process_started": psutil.Process().create_time(),
                "heartbeat": time.time(),
            },
        )

    def _is_stale(self, holder: dict[str, Any]) -> bool:
        if time.time() - holder["heartbeat"] > self._stale_s:
            return True
        if holder["host"] != socket.gethostname():
            return False
        return not is_alive(holder["pid"], holder["process_started"])

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            with self._locked():
                holder = self._read()
                if holder is None or holder["owner"] != self._owner:
                    self._lost.set()
                    return
                self._write()


def is_alive(pid: int, started: float) -> bool:
    """Whether this very process (not a later one with the same number) still runs."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lease_holder(work_root: Path) -> dict[str, Any] | None:
    """Who works on a dataset right now, for ``status``; None if nobody does."""
    lease = Lease(work_root)
    holder = lease._read()
    return None if holder is None or lease._is_stale(holder) else holder
