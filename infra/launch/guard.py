"""The guard: a process that ends with nothing left below it, however it or its parent ends.

    python -m infra.launch.guard --ppid N --grace 20 -- command …

Ranks of a process group run in sessions of their own, so no group kill reaches them, and whoever kills their agent
orphans them. Three kernel mechanisms close the holes:

* as *subreaper* the guard becomes the parent of every orphan below it, so a walk down from the guard finds them all;
* the *parent-death signal* tells the guard that the process which started it is gone, even by SIGKILL;
* the guard is *two* processes, one below the other, so that killing either leaves the other to clean up.

The first TERM goes to the command alone, which may shut its ranks down in order (a trainer writes a checkpoint). After
the grace, or at a second TERM, or once the command has ended, everything left is killed. (A scheduler that signals every
process of a job itself says so by ``--together``: the command must not hear it twice.) The exit code is the
command's; 128 + N if signal N ended it. Only the standard library is imported: the guard starts in a blink.
"""

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
WATCHED = ENDING | {signal.SIGCHLD}
OUTER_MARGIN_S = 3.0
KILL_LIMIT_S = 30.0
ORPHANED_EXIT = 79


def guarded(command: Sequence[str], grace_s: float, together: bool = False) -> list[str]:
    """The command line that runs a command below a guard, which does not outlive this process."""
    guard = [sys.executable, "-m", "infra.launch.guard", "--ppid", str(os.getpid()), "--grace", str(grace_s)]
    return [*guard, *(["--together"] if together else []), "--", *command]


def main(arguments: list[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(prog="infra.launch.guard")
    parser.add_argument("--ppid", type=int, required=True, help="the process this guard must not outlive")
    parser.add_argument("--grace", type=float, default=20.0, help="seconds between TERM and KILL")
    parser.add_argument(
        "--together", action="store_true", help="TERM is sent to all processes of the job at once: forward nothing"
    )
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    _bind_to(options.ppid)
    outer = os.getpid()

    def command() -> int:
        os.execvp(options.command[0], options.command)

    def inner() -> int:
        _bind_to(outer)
        return _supervise(command, options.grace, options.together)

    sys.exit(_supervise(inner, options.grace + OUTER_MARGIN_S, options.together))


def _bind_to(parent: int) -> None:
    """Adopt orphans, be told of the parent's death, and hear signals only where we wait for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_CHILD_SUBREAPER, 1), (PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before we asked to be told
        sys.exit(ORPHANED_EXIT)


def _supervise(body: Callable[[], int], grace: float, together: bool = False) -> int:
    """Run ``body`` in a child, forward the first TERM, and leave nothing below us. Returns the child's code."""
    child = os.fork()
    if child == 0:
        own_code = 127
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            own_code = body()
        except OSError as error:
            print(f"guard: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(own_code)
    deadline: float | None = None
    while True:
        code = _reap(child)
        if code is not None:
            kill_descendants(os.getpid())
            return code
        wait_s = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        heard = signal.sigtimedwait(WATCHED, wait_s)
        if heard is not None and heard.si_signo in ENDING:
            if deadline is None:
                deadline = time.monotonic() + grace
                if not together:
                    os.kill(child, signal.SIGTERM)
            else:
                deadline = time.monotonic()
        if deadline is not None and time.monotonic() >= deadline:
            kill_descendants(os.getpid())


def _reap(child: int) -> int | None:
    """Collect every ended child and adopted orphan; the command's exit code once it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def kill_descendants(root: int) -> None:
    """SIGKILL everything below ``root``, again and again until a look at the process table finds nothing alive."""
    limit = time.monotonic() + KILL_LIMIT_S
    while (alive := descendants(root)) and time.monotonic() < limit:
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def descendants(root: int) -> list[int]:
    """Living processes below ``root``, from /proc. Zombies do not count: they are dead."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The command's name stands in parentheses and may contain anything, also a parenthesis.
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


if __name__ == "__main__":
    main()
