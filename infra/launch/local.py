"""Process groups on this machine: guard -> torchrun -> ranks.

torchrun is started by module name and meets its ranks on the loopback interface at a free port. Each rank's output goes
to ``logs/<attempt>_…/attempt_0/<rank>/``, the agent's to ``logs/<attempt>.log``.

The guard ends the job when this process ends, even by SIGKILL: a later run resumes from the last checkpoint. Should
ranks outlive even that (both guard processes killed), the next ``submit`` finds them by the mark in their environment
and ends them first: two process groups never write to one work folder.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.errors import ConfigError, HeadwaterError
from infra.launch.spec import JobEnd, JobHandle, JobSpec
from infra.store.files import write_json
from infra.store.lease import is_alive

KIND = "local"
JOB_MARK = "HEADWATER_JOB"
TICK_S = 0.1
GRACE_S = 20.0
AGENT_GRACE_S = 15
"""Less than the guard's, so that torchrun ends its ranks in order where it can."""
TAIL_BYTES = 6000


@dataclass
class LocalLauncher:
    """``submit`` must be called from a thread that lives as long as the job: the guard watches it."""

    grace_s: float = GRACE_S
    _guards: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        if spec.nodes != 1:
            raise ConfigError(
                f"{spec.module} wants {spec.nodes} nodes, and the local launcher has one",
                remedy="Set nodes to 1, or choose a cluster launcher.",
            )
        end_processes_of(work_dir)
        logs = work_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        attempt = f"try-{1 + sum(1 for _ in logs.glob('try-*.log'))}"
        with (logs / f"{attempt}.log").open("wb") as log:
            guard = subprocess.Popen(
                [
                    *(sys.executable, "-m", "infra.launch.guard"),
                    *("--ppid", str(os.getpid()), "--grace", str(self.grace_s), "--"),
                    *_torchrun(spec, work_dir, attempt),
                ],
                env=_environment(spec, work_dir),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the driver, which ends the job in order
            )
        started = psutil.Process(guard.pid).create_time()
        detail = {"pid": guard.pid, "started": started, "work_dir": str(work_dir), "attempt": attempt}
        handle = JobHandle(KIND, f"{guard.pid}-{started:.2f}", socket.gethostname(), detail)
        self._guards[handle.id] = guard
        write_json(work_dir / "job.json", handle.as_dict())
        return handle

    def wait(self, handle: JobHandle, on_tick: Callable[[], None]) -> JobEnd:
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

    def terminate(self, handle: JobHandle, grace_s: float = GRACE_S) -> None:
        self._signal(handle, signal.SIGTERM)
        if not self._gone_within(handle, grace_s):
            self._signal(handle, signal.SIGTERM)  # the guard's second TERM means now
            if not self._gone_within(handle, 10.0):
                self._signal(handle, signal.SIGKILL)
        end_processes_of(Path(handle.detail["work_dir"]))

    def attach(self, handle: JobHandle) -> bool:
        return handle.host == socket.gethostname() and self._running(handle)

    def dump_stacks(self, handle: JobHandle) -> None:
        for process, environment in _processes_of(Path(handle.detail["work_dir"])):
            # Helpers of a rank (data workers, compilers) inherit its environment; only the rank itself has a handler.
            if "RANK" in environment and "--request" in process.cmdline():
                process.send_signal(signal.SIGUSR1)

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


def _torchrun(spec: JobSpec, work_dir: Path, attempt: str) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "1", "--nproc-per-node", str(spec.ranks), "--max-restarts", "0"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
        *("--rdzv-id", attempt, "--log-dir", str(work_dir / "logs"), "--redirects", "3"),
        *("--shutdown-timeout", str(AGENT_GRACE_S)),
        *("-m", spec.module, "--request", str(work_dir / "request.json")),
    ]


def _environment(spec: JobSpec, work_dir: Path) -> dict[str, str]:
    extensions = extensions_folder()
    clear_stale_locks(extensions)
    environment = {
        **os.environ,
        JOB_MARK: str(work_dir.resolve()),
        "OMP_NUM_THREADS": str(spec.threads_per_rank),
        "TORCH_EXTENSIONS_DIR": str(extensions),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONFAULTHANDLER": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "LOCAL_SIZE": str(spec.ranks),
    }
    if not has_gpu():
        environment["DS_ACCELERATOR"] = "cpu"
    return {**environment, **spec.env}


def has_gpu() -> bool:
    """Whether a CUDA or ROCm device is there, without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    nvidia = any(re.fullmatch(r"nvidia\d+", path.name) for path in Path("/dev").iterdir())
    return nvidia or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


def extensions_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "headwater" / "torch-extensions"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clear_stale_locks(folder: Path) -> None:
    """Remove lock files that killed compilations left: every later start would wait for them in silence.

    The builder keeps its lock file open while it lives, so a lock that no process has open is stale.
    """
    locks = {str(path.resolve()) for path in folder.rglob("lock")}
    if locks:
        for path in locks - set(_open_files()):
            Path(path).unlink(missing_ok=True)


def _open_files() -> Iterator[str]:
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            yield os.readlink(link)
        except OSError:
            continue  # closed meanwhile, or another user's


def _processes_of(work_dir: Path) -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Every living process that carries the job's mark."""
    mark = str(work_dir.resolve())
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get(JOB_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process, environment
        except (psutil.Error, OSError):
            continue  # gone, or another user's


def end_processes_of(work_dir: Path, limit_s: float = 30.0) -> None:
    """Kill whatever an earlier job left behind for this work folder, and wait until it is gone."""
    deadline = time.monotonic() + limit_s
    while left := [process for process, _ in _processes_of(work_dir) if process.pid != os.getpid()]:
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


def read_logs(logs: Path, attempt: str) -> tuple[str, str]:
    """The agent's verdict (``rank 1: exit code 1``) and the end of the log that says why."""
    agent = _tail(logs / f"{attempt}.log")
    verdict = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", agent, re.DOTALL)
    if verdict is None:
        return "", agent
    rank, code = verdict.groups()
    errors = sorted(logs.glob(f"{attempt}_*/attempt_*/{rank}/stderr.log"))
    reason = f"rank {rank} " + (f"was killed by signal {code[1:]}" if code.startswith("-") else f"exit code {code}")
    return reason, (_tail(errors[-1]) if errors else "") or agent


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return stream.read().decode(errors="replace")
