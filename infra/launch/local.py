"""Process groups on this machine: guard -> torchrun -> ranks.

torchrun is started by module name and meets its ranks on the loopback interface at a free port. Each rank's output goes
to ``logs/<attempt>_…/attempt_0/<rank>/``, the agent's to ``logs/<attempt>.log``.

The guard ends the job when this process ends, even by SIGKILL: a later run resumes from the last checkpoint. Should
ranks outlive even that (both guard processes killed), the next ``submit`` finds them by the mark in their environment
and ends them first: two process groups never write to one work folder.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.errors import ConfigError
from infra.gpus import Device, check_gpus
from infra.job import JobSpec
from infra.launch.guard import guarded
from infra.launch.logs import next_attempt, read_logs
from infra.launch.processes import TICK_S, dump_stacks_of, end_processes_of
from infra.launch.spec import JobEnd, JobHandle, OnTick
from infra.launch.torchrun import GRACE_S, NodeRanks, Rendezvous, environment, torchrun
from infra.store.lease import is_alive, process_host


@dataclass
class LocalLauncher:
    """``submit`` must be called from a thread that lives as long as the job: the guard watches it."""

    device: Device = "auto"
    """auto: a GPU for each rank where there are any."""
    grace_s: float = GRACE_S
    kind: str = "local"
    _guards: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        if spec.nodes != 1:
            raise ConfigError(
                f"{spec.module} wants {spec.nodes} nodes, and the local launcher has one",
                remedy="Set nodes to 1, or choose a cluster launcher.",
            )
        check_gpus(spec, self.device)
        end_processes_of(work_dir)
        logs = work_dir / "logs"
        attempt = next_attempt(logs)
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}  # of ROCm's devices, too
        ranks = NodeRanks(spec.module, spec.ranks, spec.threads_per_rank, work_dir, logs, {**hidden, **spec.env})
        rendezvous = Rendezvous(attempt)
        with (logs / f"{attempt}.log").open("wb") as log:
            guard = subprocess.Popen(
                guarded(torchrun(ranks, rendezvous), self.grace_s),
                env=environment(ranks, rendezvous),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the driver, which ends the job in order
            )
        started = psutil.Process(guard.pid).create_time()
        detail = {"pid": guard.pid, "started": started, "work_dir": str(work_dir), "attempt": attempt}
        handle = JobHandle(self.kind, f"{guard.pid}-{started:.2f}", process_host(), detail)
        self._guards[handle.id] = guard
        handle.save(work_dir)
        return handle

    def wait(self, handle: JobHandle, on_tick: OnTick) -> JobEnd:
        next_tick = 0.0
        while self._running(handle):
            if time.monotonic() >= next_tick:
                on_tick()
                next_tick = time.monotonic() + 1.0
            time.sleep(TICK_S)
        guard = self._guards.pop(handle.id, None)
        code = None if guard is None else guard.wait()
        if code is not None and code > 128:
            code = 128 - code
        reason, tail = read_logs(Path(handle.detail["work_dir"]) / "logs", handle.detail["attempt"])
        return JobEnd(code, reason, tail)

    def terminate(self, handle: JobHandle) -> None:
        self._signal(handle, signal.SIGTERM)
        if not self._gone_within(handle, GRACE_S):
            self._signal(handle, signal.SIGTERM)  # the guard's second TERM means now
            if not self._gone_within(handle, 10.0):
                self._signal(handle, signal.SIGKILL)
        end_processes_of(Path(handle.detail["work_dir"]))

    def attach(self, handle: JobHandle) -> bool:
        return handle.host == process_host() and self._running(handle)

    def dump_stacks(self, handle: JobHandle) -> None:
        dump_stacks_of(Path(handle.detail["work_dir"]))

    def _running(self, handle: JobHandle) -> bool:
        guard = self._guards.get(handle.id)
        if guard is not None:
            return guard.poll() is None
        return is_alive(handle.detail["pid"], handle.detail["started"])

    def _signal(self, handle: JobHandle, number: signal.Signals) -> None:
        if self._running(handle):
            os.kill(handle.detail["pid"], number)

    def _gone_within(self, handle: JobHandle, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._running(handle):
            if time.monotonic() > deadline:
                return False
            time.sleep(TICK_S)
        return True
