"""Units on this machine, in worker processes.

``infra.execution.attempts`` says what becomes of a unit after each attempt; here is who works on what. The list of
units is consumed as workers become free, so it may be a generator over any number of them.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from infra.errors import HeadwaterError
from infra.execution.attempts import Attempts, Try, start_error
from infra.execution.base import UnitOutcome, UnitTask
from infra.execution.pool import PoolSettings, UnitLimits, WorkerHandle, clear_scratch
from infra.execution.worker import Assignment, Opened, StartFailed
from infra.stage import Unit

TICK_S = 0.2
MAX_START_DEATHS = 3


@dataclass(frozen=True)
class LocalExecutor(PoolSettings):
    """A pool of worker processes."""

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        run = _Run(self, task, Attempts(iter(units), self.attempts, self.backoff_s))
        try:
            yield from run.outcomes()
        finally:
            run.stop()


@dataclass
class _Run:
    """The scheduling of one step: who works on what."""

    settings: LocalExecutor
    task: UnitTask
    attempts: Attempts
    workers: list[WorkerHandle] = field(default_factory=list)
    tries: dict[str, Try] = field(default_factory=dict)
    """The attempts in work, by unit."""
    start_deaths: int = 0

    def outcomes(self) -> Iterator[UnitOutcome]:
        while True:
            self._assign_units()
            if not self.tries and self.attempts.finished:
                return
            for worker in self._ready(TICK_S if self.tries else self.attempts.pause_s(TICK_S)):
                outcome = self._receive(worker)
                if outcome is not None:
                    yield outcome
            limits = self._limits()
            for worker in self.workers:
                worker.watch(limits)

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.kill()  # all at once first, so that none waits for another
        for worker in self.workers:
            worker.stop()
            if worker.assignment:
                clear_scratch(self.task, worker.assignment.unit.id)
        self.workers.clear()

    # -- handing out ------------------------------------------------------------------------------------------------

    def _assign_units(self) -> None:
        while True:
            idle = next((worker for worker in self.workers if worker.assignment is None), None)
            if idle is None and len(self.workers) >= self.settings.workers:
                return
            following = self.attempts.next(self.tries.values())
            if following is None:
                return
            if idle is None:
                idle = WorkerHandle.start(self.task, self.settings.threads)
                self.workers.append(idle)
            self.tries[following.unit.id] = following
            # If it is dead already, its closed pipe is heard in the next round.
            idle.assign(Assignment(following.unit, following.attempt, following.quarantine))

    def _limits(self) -> UnitLimits:
        """A lone unit may use what all workers may use together."""
        memory = self.settings.memory_bytes
        if memory and any(attempt.alone for attempt in self.tries.values()):
            memory *= self.settings.workers
        return UnitLimits(memory, self.settings.unit_timeout_s)

    # -- listening --------------------------------------------------------------------------------------------------

    def _ready(self, timeout: float) -> list[WorkerHandle]:
        """The workers that said something or died."""
        if not self.workers:
            time.sleep(timeout)
            return []
        ready = wait([source for worker in self.workers for source in worker.sources], timeout)
        return [worker for worker in self.workers if any(source in ready for source in worker.sources)]

    def _receive(self, worker: WorkerHandle) -> UnitOutcome | None:
        message = worker.receive()
        if message is None:
            return self._worker_died(worker)
        if isinstance(message, Opened):
            worker.opened, worker.since, self.start_deaths = True, time.monotonic(), 0
            return None
        if isinstance(message, StartFailed):
            raise start_error(self.task, message.failure)
        assert worker.assignment is not None
        attempt = self.tries.pop(worker.assignment.unit.id)
        worker.assignment = None
        if worker.must_be_replaced(self.settings.memory_bytes):  # its successor starts with the next unit
            self.workers.remove(worker)
            worker.stop()
        return self.attempts.answered(attempt, message)

    def _worker_died(self, worker: WorkerHandle) -> UnitOutcome | None:
        death = worker.death()
        self.workers.remove(worker)
        worker.stop()
        if worker.assignment is None:
            return None
        attempt = self.tries.pop(worker.assignment.unit.id)
        clear_scratch(self.task, attempt.unit.id)
        if not worker.opened:
            self.start_deaths += 1
            if self.start_deaths > MAX_START_DEATHS:
                raise HeadwaterError(
                    f"worker processes die while they start: {death.text}",
                    where=self.task.reference,
                    remedy="Check memory and the installation, then run again.",
                )
        return self.attempts.died(attempt, death)
