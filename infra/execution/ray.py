"""Units on the nodes of a Ray cluster: plain tasks, one attempt at a unit each.

    driver                                     node
    Attempts -> bounded window of tasks  ->  Ray worker -> NodeWorker -> worker process of infra.execution.pool
             <-      ray.wait            <-  Receipt | Failure | Death

* What runs a unit on a node is the worker process of the local executor, watched from the Ray worker that was handed
  the task: the same guard around every document, the same limits, the same journal. A run can therefore move between
  this machine and a cluster at any time.
* What becomes of a unit after an attempt is decided by ``Attempts`` in the driver. A lost node is a worker that died: the
  unit is tried again, elsewhere. Ray itself retries nothing.
* No data goes through Ray, only units and receipts. Inputs and outputs lie in the workspace: a folder that every node
  sees at the same path, or an object store. Temporary files and spilling go to the node's own disk.
* A worker process is kept for the next unit of the same step. It dies with its Ray worker (the kernel signals it), which
  dies with the driver (Ray's doing).
"""

import contextlib
import functools
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from infra.errors import ConfigError, HeadwaterError
from infra.execution.attempts import Attempts, Death, Try, start_error
from infra.execution.base import Failure, UnitOutcome, UnitTask
from infra.execution.pool import PoolSettings, UnitLimits, WorkerHandle
from infra.execution.ray_settings import ENVIRONMENT, RaySettings
from infra.execution.worker import Assignment, Opened, StartFailed
from infra.stage import Receipt, Unit
from infra.store.files import is_local
from infra.store.lease import is_alive, process_host

TICK_S = 0.2
CAPACITY_EVERY_S = 5.0
"""How often the driver asks which nodes there are."""
UNUSABLE_LIMIT_S = 600.0
"""No node with enough cores for this long (an autoscaler may be starting one) ends the run."""
UNITS_PER_CPU = 2
"""Tasks in flight for each unit a cluster can run: one runs, one waits at its node."""

ERROR_LINE = re.compile(r"[\w.]*(Error|Exception): ")
Ending = Receipt | Failure | Death | StartFailed
"""How an attempt on a node ended."""


@dataclass(frozen=True)
class RayExecutor(PoolSettings):
    """As many units at a time as the cluster has cores for."""

    settings: RaySettings = field(default_factory=RaySettings)

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        ray = connect(self.settings, self.workers)
        run = _Run(self, ray, task, Attempts(iter(units), self.attempts, self.backoff_s))
        try:
            yield from run.outcomes()
        finally:
            run.stop()


# ---- the driver -----------------------------------------------------------------------------------------------------


def connect(settings: RaySettings, workers: int) -> Any:
    """The ray module, connected. The connection is kept for the steps that follow."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "executor ray needs Ray, which is not installed here",
            remedy="Install it with pip install 'headwater[ray]', or set execution.executor to local.",
        ) from None
    if settings.address.startswith("ray://"):
        raise ConfigError(
            "Ray's client protocol is not supported",
            where=settings.address,
            remedy="Start the run on a node of the cluster and set execution.ray.address to auto or host:port.",
        )
    if ray.is_initialized():
        return ray
    where: dict[str, Any] = {"address": settings.address}
    if not settings.address:
        where = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    try:
        with _signals_kept():
            ray.init(**where, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster can be used: {_telling_line(error)}",
            where=settings.address or "this machine",
            remedy="Check execution.ray.address; the run must be started on a node of the cluster, with the same "
            "versions of Python and Ray, and with its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN) if it wants one.",
        ) from error
    return ray


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets a handler of its own for TERM; ours ends a run in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Capacity:
    """What a cluster has at the moment."""

    nodes: int
    units: int
    """Units it can run at a time."""
    cpus_alone: float
    """Cores of its smallest node: what a unit takes that runs alone, so that any node will do."""


@dataclass
class _Run:
    """One step on the cluster: which task is which attempt."""

    settings: RayExecutor
    ray: Any
    task: UnitTask
    attempts: Attempts
    running: dict[Any, Try] = field(default_factory=dict)
    capacity: Capacity = field(init=False)
    capacity_at: float = 0.0
    usable_at: float = field(default_factory=time.monotonic)
    """When there was last a node that can run a unit."""

    def __post_init__(self) -> None:
        self._update_capacity()
        self.submit = self.ray.remote(max_retries=0, num_returns=1)(attempt_on_node)

    def outcomes(self) -> Iterator[UnitOutcome]:
        while True:
            self._assign_units()
            if not self.running:
                if self.attempts.finished:
                    return
                time.sleep(self.attempts.pause_s(TICK_S))
                continue
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=TICK_S)
            for reference in ready:
                outcome = self._outcome_of(self.running.pop(reference), reference)
                if outcome is not None:
                    yield outcome
            if time.monotonic() - self.capacity_at > CAPACITY_EVERY_S:
                self._update_capacity()

    def stop(self) -> None:
        """End what still runs: its Ray worker is killed, and the worker process with it."""
        for reference in self.running:
            with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
                self.ray.cancel(reference, force=True, recursive=False)
        self.running.clear()

    def _update_capacity(self) -> None:
        per_unit = self.settings.settings.cpus_per_unit
        cpus = [node["Resources"].get("CPU", 0.0) for node in self.ray.nodes() if node["Alive"]]
        useful = [number for number in cpus if number >= per_unit]
        units = sum(int(number // per_unit) for number in useful)
        self.capacity = Capacity(len(useful), max(1, units), min(useful, default=per_unit))
        self.capacity_at = time.monotonic()
        if useful:
            self.usable_at = self.capacity_at
        elif self.capacity_at - self.usable_at > UNUSABLE_LIMIT_S:
            raise HeadwaterError(
                f"no node of the Ray cluster has the {per_unit:g} cores of a unit (they have {sorted(cpus)})",
                remedy="Add nodes, or lower execution.ray.cpus_per_unit.",
            )

    def _assign_units(self) -> None:
        while len(self.running) < self.capacity.units * UNITS_PER_CPU:
            following = self.attempts.next(self.running.values(), lone_slots=max(1, self.capacity.nodes))
            if following is None:
                return
            self.running[self._submit(following)] = following

    def _submit(self, attempt: Try) -> Any:
        """A lone unit takes a whole node, and may use the memory of all units that would fit there."""
        per_unit = self.settings.settings.cpus_per_unit
        cpus = self.capacity.cpus_alone if attempt.alone else per_unit
        memory = self.settings.memory_bytes
        if memory and attempt.alone:
            memory *= max(1, int(cpus // per_unit))
        return self.submit.options(num_cpus=cpus, scheduling_strategy="SPREAD", name=attempt.unit.id).remote(
            self.task,
            Assignment(attempt.unit, attempt.attempt, attempt.quarantine),
            UnitLimits(memory, self.settings.unit_timeout_s),
            self.settings.threads,
            self.settings.settings.scratch,
        )

    def _outcome_of(self, attempt: Try, reference: Any) -> UnitOutcome | None:
        errors = self.ray.exceptions
        try:
            answer: Ending = self.ray.get(reference)
        except errors.OutOfMemoryError:
            return self.attempts.died(attempt, Death("memory", "Ray ended the worker: its node ran out of memory"))
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            raise HeadwaterError(
                f"a node of the Ray cluster cannot run units: {_last_line(error)}",
                remedy="Install the same headwater in the same Python on every node.",
            ) from error
        except errors.RayError as error:  # its worker or its node is gone
            return self.attempts.died(attempt, Death("death", f"its node was lost ({_last_line(error)})"))
        if isinstance(answer, StartFailed):
            raise start_error(self.task, answer.failure)
        if isinstance(answer, Death):
            return self.attempts.died(attempt, answer)
        return self.attempts.answered(attempt, answer)


def _telling_line(error: Exception) -> str:
    """Ray packs tracebacks into its messages: the innermost error, or the beginning."""
    named = [line.strip() for line in str(error).splitlines() if ERROR_LINE.match(line.strip())]
    return (named[-1] if named else " ".join(str(error).split()))[:300]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]


# ---- a node ---------------------------------------------------------------------------------------------------------


def attempt_on_node(task: UnitTask, assignment: Assignment, limits: UnitLimits, threads: int, scratch: str) -> Ending:
    """The Ray task: one attempt at one unit, on whichever node."""
    if is_local(task.work_root) and not Path(task.work_root).is_dir():
        missing = HeadwaterError(
            f"node {socket.gethostname()} of the Ray cluster does not see the workspace",
            where=task.work_root,
            remedy="Mount the workspace at the same path on every node.",
        )
        return StartFailed(Failure(str(missing), fatal=missing))
    return node_worker(scratch).attempt(task, assignment, limits, threads)


@functools.cache
def node_worker(scratch: str) -> "NodeWorker":
    """The one worker process of this Ray worker, kept from task to task."""
    return NodeWorker(own_scratch(Path(scratch or tempfile.gettempdir()) / "headwater"))


@dataclass
class NodeWorker:
    """A Ray worker's one worker process."""

    scratch: Path
    worker: WorkerHandle | None = None
    opened: UnitTask | None = None

    def attempt(self, task: UnitTask, assignment: Assignment, limits: UnitLimits, threads: int) -> Ending:
        worker = self._worker(task, threads)
        worker.assign(assignment)  # if it is dead already, its closed pipe is heard at once
        try:
            answer = self._await_answer(worker, limits)
        except BaseException:  # the task was cancelled
            self._end()
            raise
        worker.assignment = None
        if isinstance(answer, (Death, StartFailed)) or worker.must_be_replaced(limits.memory_bytes):
            self._end()
        return answer

    def _worker(self, task: UnitTask, threads: int) -> WorkerHandle:
        if self.worker is None or self.opened != task or not self.worker.process.is_alive():
            self._end()
            self.scratch.mkdir(parents=True, exist_ok=True)
            self.worker = WorkerHandle.start(replace(task, scratch_root=str(self.scratch)), threads)
            self.opened = task
        return self.worker

    def _await_answer(self, worker: WorkerHandle, limits: UnitLimits) -> Ending:
        while True:
            if wait(list(worker.sources), TICK_S):
                message = worker.receive()
                if message is None:
                    return worker.death()
                if not isinstance(message, Opened):
                    return message
                worker.opened, worker.since = True, time.monotonic()
            worker.watch(limits)

    def _end(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.worker = self.opened = None
        shutil.rmtree(self.scratch, ignore_errors=True)


def own_scratch(base: Path) -> Path:
    """This process's scratch folder below ``base``. What killed ones of this host left there is removed."""
    host = process_host()
    for folder in base.glob(f"{host}-*-*"):
        pid, _, started = folder.name.removeprefix(f"{host}-").partition("-")
        if pid.isdigit() and started.isdigit() and not is_alive(int(pid), float(started)):
            shutil.rmtree(folder, ignore_errors=True)
    return base / f"{host}-{os.getpid()}-{psutil.Process().create_time():.0f}"
