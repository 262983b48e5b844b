"""The processes of a job on one machine, found by the mark that all of them carry in their environment.

The mark is the work folder: whoever works on a dataset can find what an earlier attempt left behind, also after the
process that started it is gone.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from infra.errors import HeadwaterError

JOB_MARK = "HEADWATER_JOB"
TICK_S = 0.1


def mark_of(work_dir: Path) -> str:
    return str(work_dir.resolve())


def processes_of(work_dir: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every living process that carries the job's mark."""
    mark = mark_of(work_dir)
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(JOB_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment
        except (psutil.Error, OSError):
            continue  # gone, or another user's


def dump_stacks_of(work_dir: Path) -> None:
    """Have every rank on this machine write the stacks of its threads to its log."""
    for process, environment in processes_of(work_dir):
        # Helpers of a rank (data workers, compilers) inherit its environment; only the rank itself has a handler.
        if "RANK" in environment and "--request" in process.cmdline():
            process.send_signal(signal.SIGUSR1)


def end_processes_of(work_dir: Path, limit_s: float = 30.0) -> None:
    """Kill whatever an earlier job left behind for this work folder, and wait until it is gone."""
    deadline = time.monotonic() + limit_s
    while left := [process for process, _ in processes_of(work_dir) if process.pid != os.getpid()]:
        if time.monotonic() > deadline:
            raise HeadwaterError(
                f"process {left[0].pid} of an earlier attempt cannot be ended",
                where=str(work_dir),
                remedy="End it by hand, then run again.",
            )
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(TICK_S)  # not psutil.wait_procs: it would reap a guard of ours and lose its exit code
