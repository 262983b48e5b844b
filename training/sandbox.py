"""Running code that a model wrote.

Each program runs in a process of its own, in an empty folder that is deleted afterwards, behind the kernel's own
barriers (see ``sandbox_child``): no network, no other processes, no files but its own, bounded time and memory. The kernel
bounds the size of a file but not how many there are: those are counted from outside while it runs. It has passed when it
ran to its end without an exception, and only then.

A machine on which the system-call filter cannot be set up runs nothing.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from infra.errors import HeadwaterError

CHILD = Path(__file__).with_name("sandbox_child.py")
LOOK_S = 0.05


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: int = 5
    megabytes: int = 512
    files: int = 256
    """Files and folders it may have at a time, of 1 MB each at most."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended. ``reason`` is empty for one that passed, otherwise the last line of what went wrong."""

    passed: bool
    reason: str
    files_restricted: bool
    """Whether the kernel kept it from files that are not its own."""


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run one program to its end or its limits."""
    limits = limits or Limits()
    token = secrets.token_hex(16)
    task = json.dumps({"program": program, "token": token})
    with tempfile.TemporaryDirectory(prefix="headwater-sandbox-") as folder:
        reader, writer = os.pipe()
        try:
            exceeded, code = _run_child(folder, task, writer, limits)
        finally:
            os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            messages = _messages(stream.read(1 << 16))
    layers: dict[str, object] = next((message for message in messages if "calls" in message), {})
    if not layers.get("calls") and not exceeded:
        raise HeadwaterError(
            "this machine cannot confine programs (seccomp is not available)",
            remedy="Run the evaluation where it is.",
        )
    passed = any(message.get("token") == token for message in messages) and not exceeded
    return Outcome(passed, "" if passed else exceeded or _reason(messages, code), bool(layers.get("files")))


def run_programs(programs: Sequence[str], limits: Limits | None = None, workers: int = 2) -> list[Outcome]:
    """Run many programs, ``workers`` at a time; outcomes in the order of the programs."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda program: run_program(program, limits), programs))


def _run_child(folder: str, task: str, writer: int, limits: Limits) -> tuple[str, int]:
    """The limit that was exceeded, if one was that we watch, and the exit code."""
    numbers = map(str, (limits.seconds, limits.megabytes, writer))
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(CHILD), folder, *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        pass_fds=(writer,),
        start_new_session=True,
    )
    deadline = time.monotonic() + limits.seconds + 2
    try:
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(task.encode())
        while child.poll() is None:
            if time.monotonic() > deadline:
                return "time limit", -9
            if _too_many(folder, limits.files):
                return "too many files", -9
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_S)
    finally:
        # It cannot have children of its own: ending it ends everything.
        child.kill()
        child.wait()
    return "too many files" if _too_many(folder, limits.files) else "", child.returncode


def _too_many(folder: str, most: int) -> bool:
    """Whether there are more files and folders than allowed; it looks at no more of them than it takes to tell."""
    found = (name for _, folders, names in os.walk(folder) for name in (*folders, *names))
    return next(islice(found, most, None), None) is not None


def _messages(raw: bytes) -> list[dict[str, object]]:
    """The child's lines; a program that writes to the pipe itself can only add lines that mean nothing."""
    found = []
    for line in raw.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            found.append(message)
    return found


def _reason(messages: list[dict[str, object]], code: int) -> str:
    for message in messages:
        if isinstance(message.get("error"), str):
            return str(message["error"]).strip().splitlines()[-1][:200]
    return f"ended early (code {code})"
