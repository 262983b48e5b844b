"""The lease: at most one run works on a dataset.

``lease.json`` carries the owner's id and a heartbeat, and is only ever replaced by compare-and-swap (``infra.store.slot``),
so two runs never both believe to own it. A lease is stale once its heartbeat is 90 s old, or at once if its owner was a
process of this host that no longer exists (a killed run is resumed without waiting). The holder checks again before it
publishes.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from infra.errors import HeadwaterError, LeaseLost
from infra.store.slot import Content, slot

HEARTBEAT_S = 30.0
STALE_S = 90.0
LEASE = "lease.json"
HOST_NAMESPACE = "4026531836"
"""Linux numbers the process namespace that it starts with like this, on every machine."""


class Lease:
    """Held between ``acquire`` and ``release``; usable as a context manager. ``folder`` is a path or an S3 address."""

    def __init__(self, folder: str | Path, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> None:
        self._slot = slot(folder, LEASE)
        self._owner = uuid.uuid4().hex
        self._heartbeat_s, self._stale_s = heartbeat_s, stale_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, *, wait: bool = True, on_wait: Callable[[str], None] | None = None) -> None:
        """Take the lease; ``wait`` for a living holder, or raise HeadwaterError at once."""
        announced = False
        while True:
            seen = self._slot.read()
            holder = _holder(seen)
            if holder is None or _is_stale(holder, seen, self._stale_s):
                if self._slot.swap(seen, self._record()):
                    break
                continue  # somebody else was quicker: look who
            who = f"{holder.get('host')} process {holder.get('pid')}"
            if not wait:
                raise HeadwaterError(
                    f"another run ({who}) is working on this dataset",
                    where=self._slot.where,
                    remedy="Wait for it to end, or stop it.",
                )
            if not announced and on_wait:
                on_wait(f"waiting for another run ({who}) that is working on this dataset")
                announced = True
            time.sleep(min(1.0, self._heartbeat_s))
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost if somebody else owns the lease now."""
        holder = _holder(self._slot.read())
        if self._lost.is_set() or holder is None or holder["owner"] != self._owner:
            raise LeaseLost(
                "another run took over this dataset, so nothing of this run is published",
                where=self._slot.where,
                remedy="Let the other run finish; then run again.",
            )

    def release(self) -> None:
        """Give it back. The heartbeat ends first, so that it cannot see its own release as a loss."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(FileNotFoundError):
            seen = self._slot.read()
            holder = _holder(seen)
            if holder is not None and holder["owner"] == self._owner:
                self._slot.swap(seen, None)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _record(self) -> bytes:
        record = {
            "owner": self._owner,
            "host": process_host(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "heartbeat": time.time(),
        }
        return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()

    def _beat(self) -> None:
        """A store that cannot be reached for a while costs nothing, as long as nobody could have taken over."""
        last = time.monotonic()
        while not self._stop.wait(self._heartbeat_s):
            try:
                seen = self._slot.read()
                holder = _holder(seen)
                mine = holder is not None and holder["owner"] == self._owner and self._slot.swap(seen, self._record())
            except Exception:
                mine = time.monotonic() - last <= self._stale_s
            else:
                last = time.monotonic()
            if not mine:
                self._lost.set()
                return


def _holder(seen: Content) -> dict[str, Any] | None:
    """The record read; None if there is none, or one that no run of ours wrote."""
    if seen.version is None:
        return None
    try:
        holder: dict[str, Any] = json.loads(seen.data)
    except ValueError:
        return None
    return holder


def _is_stale(holder: dict[str, Any], seen: Content, stale_s: float) -> bool:
    # The store's clock where it has one: two machines' clocks may differ by more than the limit.
    age = seen.age_s if seen.age_s is not None else time.time() - holder["heartbeat"]
    if age > stale_s:
        return True
    if holder["host"] != process_host():
        return False
    return not is_alive(holder["pid"], holder["process_started"])


def process_host() -> str:
    """Where a process number means a process: this host, or one container of it.

    A container counts processes for itself, and on the host's network it even bears the host's name: by the name alone
    two of them would take each other's living processes for dead.
    """
    name = socket.gethostname()
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:  # not Linux
        return name
    return name if namespace == HOST_NAMESPACE else f"{name}.{namespace}"


def is_alive(pid: int, started: float) -> bool:
    """Whether this very process (not a later one with the same number) still runs; only on its own ``process_host``."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lease_holder(folder: str | Path) -> dict[str, Any] | None:
    """Who works on a dataset right now, for ``status``; None if nobody does."""
    seen = slot(folder, LEASE).read()
    holder = _holder(seen)
    return None if holder is None or _is_stale(holder, seen, STALE_S) else holder
