"""Running a job to its verified result, through crashes, preemptions and stalls.

Success is ``result.json`` with every file it names in place and unchanged; exit codes only say why there is none yet:

| how an attempt ended | what follows |
|---|---|
| result verified | done |
| ``error.json`` (configuration, input), out of memory | raised at once: another attempt would end the same way |
| preempted, or ended with further progress than before | started again |
| two attempts in a row ended at the same step | raised: a crash loop |
| no event for the stall limit | stacks dumped, ended, started again by the same rules |
| cancelled at the cluster by somebody else | raised: that person wants it to stop |

A job that outlived its driver is attached to before a new one is started. While a job waits in a cluster's queue, neither
its time limit nor its stall limit runs.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import DISK_FULL, HeadwaterError
from infra.job import JobResult, JobSpec, load_result
from infra.job_main import ERROR_FILE, read_error
from infra.launch.logs import TRACE
from infra.launch.spec import JOB_FILE, JobEnd, JobHandle, Launcher
from infra.store.files import json_lines, read_json, sha256_file

LOCAL = "local"
"""Jobs of this kind never outlive their driver by more than moments, and the local launcher ends what is left."""
PHASE_PATIENCE = 4
"""An announced phase (an evaluation, an export) may be silent this many times longer than training steps."""
STACK_WRITE_S = 2.0
TAIL_LINES = 15
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|MemoryError|Cannot allocate memory", re.IGNORECASE)
PREEMPTED = re.compile(r"exit code 75\b|preempted")

OnEvent = Callable[[Mapping[str, Any]], None]


class _GiveUp(Exception):
    """The attempt must be ended: it stalls, or its time is over."""


@dataclass
class _Watch:
    """Follows ``events.jsonl`` during one attempt: passes events on, notices silence and the attempt's time limit."""

    spec: JobSpec
    path: Path
    on_event: OnEvent
    offset: int = 0
    step: float | None = None
    in_phase: bool = False
    queued: str = ""
    began: float = field(default_factory=time.monotonic)
    last_event: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.offset = self.path.stat().st_size if self.path.exists() else 0

    def read(self, queued: str = "") -> None:
        for event in self._new_events():
            self.last_event = time.monotonic()
            self.in_phase = event.get("type") == "phase"
            if event.get("type") == "progress":
                self.step = event.get("done")
            self.on_event(event)

    def tick(self, queued: str = "") -> None:
        self.read()
        now = time.monotonic()
        if queued:
            self.began = self.last_event = now
            if queued != self.queued:
                self.on_event({"type": "warning", "message": queued})
        self.queued = queued
        patience = self.spec.stall_limit_s * (PHASE_PATIENCE if self.in_phase else 1)
        if now - self.last_event > patience:
            raise _GiveUp(f"no sign of life for {patience} s")
        if self.spec.time_limit_s and now - self.began > self.spec.time_limit_s:
            raise _GiveUp(f"the time limit of {self.spec.time_limit_s} s is over")

    def _new_events(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        yield from json_lines(whole)


@dataclass
class _History:
    """What earlier attempts of this run came to: enough to tell bad luck from a crash loop."""

    best: float = -1.0
    last: float | None = None
    without_progress: int = 0
    attempts: int = 0

    def record(self, step: float | None) -> bool:
        """True if this attempt ended exactly where the one before it did."""
        reached = -1.0 if step is None else step
        loop = self.attempts > 0 and reached == self.last
        self.without_progress = 0 if reached > self.best else self.without_progress + 1
        self.best, self.last = max(self.best, reached), reached
        self.attempts += 1
        return loop


def run_job(spec: JobSpec, launcher: Launcher, work_dir: Path, on_event: OnEvent) -> JobResult:
    """Run the job whose ``request.json`` lies in ``work_dir`` until its result is verified. Raises HeadwaterError."""
    history = _History()
    running = _still_running(launcher, work_dir)
    while True:
        if running is None and (result := verified_result(work_dir)):
            return result
        (work_dir / ERROR_FILE).unlink(missing_ok=True)
        watch = _Watch(spec, work_dir / "events.jsonl", on_event)
        handle = running or launcher.submit(spec, work_dir)
        end = _wait_for_end(launcher, handle, watch)
        result = verified_result(work_dir)
        if result is not None:
            return result
        if end.cancelled:
            raise HeadwaterError(
                f"job {handle.id} was cancelled ({end.reason})",
                where=str(work_dir / "logs"),
                remedy="Run again to go on from its last checkpoint.",
            )
        if running is None:
            _raise_or_go_on(spec, work_dir, end, watch.step, history, on_event)
        running = None


def _wait_for_end(launcher: Launcher, handle: JobHandle, watch: _Watch) -> JobEnd:
    """Wait for an attempt's end. However we leave, the job does not go on without us."""
    try:
        try:
            end = launcher.wait(handle, watch.tick)
            watch.read()
        except _GiveUp as given_up:
            launcher.dump_stacks(handle)
            time.sleep(STACK_WRITE_S)
            launcher.terminate(handle)
            seen = launcher.wait(handle, watch.read)
            end = JobEnd(seen.returncode, str(given_up), seen.log_tail)
    except BaseException:
        launcher.terminate(handle)
        _forget(watch)
        raise
    _forget(watch)
    return end


def _forget(watch: _Watch) -> None:
    """The job has ended: nobody need look for it again."""
    watch.path.with_name(JOB_FILE).unlink(missing_ok=True)


def _still_running(launcher: Launcher, work_dir: Path) -> JobHandle | None:
    path = work_dir / JOB_FILE
    if not path.exists():
        return None
    handle = JobHandle(**read_json(path))
    if handle.kind == launcher.kind:
        return handle if launcher.attach(handle) else None
    if handle.kind != LOCAL:
        raise HeadwaterError(
            f"job {handle.id} was started by launcher {handle.kind} and may still run",
            where=str(path),
            remedy=f"Run again with execution.launcher={handle.kind}, or end that job and remove this file.",
        )
    return None


def verified_result(work_dir: Path) -> JobResult | None:
    """The result, if every file it names is in its place with the size and digest it promised."""
    result = load_result(work_dir)
    if result is None:
        return None
    root = Path(read_json(work_dir / "request.json")["dataset_root"])
    for output in result.outputs:
        path = root / output.path
        if not path.is_file() or path.stat().st_size != output.bytes or sha256_file(path) != output.digest:
            return None
    return result


def _raise_or_go_on(
    spec: JobSpec, work_dir: Path, end: JobEnd, step: float | None, history: _History, on_event: OnEvent
) -> None:
    """Raise if another attempt makes no sense; otherwise say that there will be one."""
    refused = read_error(work_dir)
    if refused is not None:
        raise refused
    logs = str(work_dir / "logs")
    how = end.reason or f"exit code {end.returncode}"
    if DISK_FULL.search(end.log_tail):
        raise HeadwaterError(
            f"the disk is full: {last_line(end.log_tail)}",
            where=logs,
            remedy="Free space (headwater gc) and run again: it goes on from its last checkpoint.",
        )
    if OUT_OF_MEMORY.search(end.log_tail):
        raise HeadwaterError(
            f"the job {spec.module} ran out of memory: {last_line(end.log_tail)}",
            where=logs,
            remedy="Lower the micro batch or the sequence length, raise the ZeRO stage, or use more ranks.",
        )
    preempted = PREEMPTED.search(how) is not None
    loop = history.record(step) and not preempted
    if loop or history.without_progress > spec.max_restarts:
        for line in end.log_tail.splitlines()[-TAIL_LINES:]:
            on_event({"type": "warning", "message": line})
        where = f"twice at step {step:g}" if loop and step is not None else f"{history.attempts} times"
        raise HeadwaterError(
            f"the job {spec.module} failed {where} ({how}): {last_line(end.log_tail)}",
            where=logs,
            remedy="Read the log; a later run resumes from the last checkpoint.",
        )
    at = f" at step {step:g}" if step is not None else ""
    again = "it is started again and resumes from its last checkpoint"
    on_event({"type": "warning", "message": f"the job ended{at} ({how}); {again}"})


def last_line(text: str) -> str:
    """The line of a log that most likely names the cause: the last one that looks like an exception."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if TRACE.match(line)]
    return (telling or lines or ["its log is empty"])[-1][:300]
