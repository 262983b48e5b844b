"""Units on this machine: in worker processes, or in this process for tests and debugging.

What can go wrong with a unit, and what it costs:

| what | cost |
|---|---|
| network or remote store | another attempt after a pause that doubles |
| wrong input, or a defect | the unit, at once |
| a document overstays its time limit | the document: the unit is tried again with it in quarantine |
| the worker dies twice at the same document | the document, likewise |
| the worker dies (signal, crash) | another attempt |
| too much memory, or the unit overstays | one more attempt alone with all the memory, then the unit |
| disk full, configuration, lease | the run: every other unit would fail too |

The list of units is consumed as workers become free, so it may be a generator over any number of them.
"""

import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait

from infra.errors import HeadwaterError
from infra.execution.base import Failure, UnitOutcome, UnitTask, describe_failure, open_task, run_unit
from infra.execution.pool import Death, Limits, WorkerHandle, clear_scratch, private_memory
from infra.execution.worker import Assignment, Opened, StartFailed
from infra.stage import Receipt, Unit

TICK_S = 0.2
MAX_QUARANTINE = 32
MAX_START_DEATHS = 3
RECYCLE_FRACTION = 0.6


@dataclass(frozen=True)
class LocalExecutor:
    """A pool of worker processes."""

    workers: int = 2
    memory_bytes: int | None = None
    """Cap of one worker's own memory; None: no cap."""
    unit_timeout_s: float | None = None
    attempts: int = 3
    backoff_s: float = 1.0
    threads: int = 1
    """Threads a worker's libraries may use."""

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        run = _Run(self, task, iter(units))
        try:
            yield from run.outcomes()
        finally:
            run.stop()


@dataclass(frozen=True)
class InProcessExecutor:
    """One unit after the other in this process: a debugger works, nothing is isolated."""

    attempts: int = 3
    backoff_s: float = 1.0

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        opened = open_task(task)
        for unit in units:
            for attempt in itertools.count(1):
                try:
                    yield UnitOutcome(unit, run_unit(opened, unit, attempt), attempts=attempt)
                    break
                except Exception as error:
                    failure = describe_failure(error)
                if failure.fatal:
                    raise failure.fatal
                if not failure.transient or attempt >= self.attempts:
                    yield UnitOutcome(unit, None, failure.text, attempt)
                    break
                time.sleep(_pause(self.backoff_s, attempt))


@dataclass(frozen=True)
class _Try:
    """One unit's state between attempts."""

    unit: Unit
    attempt: int = 1
    quarantine: frozenset[str] = frozenset()
    last_document: str = ""
    alone: bool = False

    def assignment(self) -> Assignment:
        return Assignment(self.unit, self.attempt, self.quarantine)


@dataclass
class _Run:
    """The scheduling of one step: who works on what, and what is tried again when."""

    settings: LocalExecutor
    task: UnitTask
    units: Iterator[Unit]
    workers: list[WorkerHandle] = field(default_factory=list)
    tries: dict[str, _Try] = field(default_factory=dict)
    waiting: list[tuple[float, int, _Try]] = field(default_factory=list)
    """A heap of later attempts by the time they are due."""
    alone: deque[_Try] = field(default_factory=deque)
    """Attempts that get the machine to themselves, when everything else is done."""
    order: Iterator[int] = field(default_factory=itertools.count)
    exhausted: bool = False
    start_deaths: int = 0

    def outcomes(self) -> Iterator[UnitOutcome]:
        while True:
            self._hand_out()
            if not self._busy() and not self.waiting and not self.alone and self.exhausted:
                return
            for worker in self._ready(self._wait_s()):
                outcome = self._hear(worker)
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

    def _busy(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.assignment is not None]

    def _hand_out(self) -> None:
        while True:
            idle = next((worker for worker in self.workers if worker.assignment is None), None)
            if idle is None and len(self.workers) >= self.settings.workers:
                return
            following = self._next()
            if following is None:
                return
            if idle is None:
                idle = WorkerHandle.start(self.task, self.settings.threads)
                self.workers.append(idle)
            self.tries[following.unit.id] = following
            idle.assign(following.assignment())  # if it is dead already, its closed pipe is heard in the next round

    def _next(self) -> _Try | None:
        """The next attempt to make now: fresh units first, then those due again, then the lone ones."""
        if any(self.tries[worker.assignment.unit.id].alone for worker in self._busy() if worker.assignment):
            return None
        if self.waiting and self.waiting[0][0] <= time.monotonic():
            return heapq.heappop(self.waiting)[2]
        if not self.exhausted:
            unit = next(self.units, None)
            if unit is not None:
                return _Try(unit)
            self.exhausted = True
        if self.alone and not self.waiting and not self._busy():
            return self.alone.popleft()
        return None

    def _limits(self) -> Limits:
        """A lone unit may use what all workers may use together."""
        memory = self.settings.memory_bytes
        if memory and any(attempt.alone for attempt in self.tries.values()):
            memory *= self.settings.workers
        return Limits(memory, self.settings.unit_timeout_s)

    # -- listening --------------------------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        if not self._busy() and self.waiting:
            return max(0.0, min(TICK_S, self.waiting[0][0] - time.monotonic()))
        return TICK_S

    def _ready(self, timeout: float) -> list[WorkerHandle]:
        """The workers that said something or died."""
        if not self.workers:
            time.sleep(timeout)
            return []
        ready = wait([source for worker in self.workers for source in worker.sources], timeout)
        return [worker for worker in self.workers if any(source in ready for source in worker.sources)]

    def _hear(self, worker: WorkerHandle) -> UnitOutcome | None:
        message = worker.receive()
        if message is None:
            return self._bury(worker)
        if isinstance(message, Opened):
            worker.opened, worker.since, self.start_deaths = True, time.monotonic(), 0
            return None
        if isinstance(message, StartFailed):
            raise message.failure.fatal or HeadwaterError(
                f"step {self.task.step!r} of {self.task.reference} cannot be started: {message.failure.text}",
                remedy="Mend the stage or its inputs, then run again.",
            )
        return self._answered(worker, message)

    def _answered(self, worker: WorkerHandle, answer: Receipt | Failure) -> UnitOutcome | None:
        assert worker.assignment is not None
        attempt = self.tries.pop(worker.assignment.unit.id)
        worker.assignment = None
        self._retire_if_worn(worker)
        if isinstance(answer, Receipt):
            return UnitOutcome(attempt.unit, answer, attempts=attempt.attempt)
        if answer.fatal:
            raise answer.fatal
        if answer.memory:
            return self._once_more_alone(attempt, answer.text)
        if answer.transient and attempt.attempt < self.settings.attempts:
            self._later(attempt)
            return None
        return UnitOutcome(attempt.unit, None, answer.text, attempt.attempt)

    def _retire_if_worn(self, worker: WorkerHandle) -> None:
        """End a worker that was condemned as it finished, or whose libraries have kept so much memory that the next
        unit would pay for it. Its successor starts with the next unit."""
        cap = self.settings.memory_bytes
        if worker.verdict or (cap and private_memory(worker.pid) > RECYCLE_FRACTION * cap):
            self.workers.remove(worker)
            worker.stop()

    # -- deaths -----------------------------------------------------------------------------------------------------

    def _bury(self, worker: WorkerHandle) -> UnitOutcome | None:
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
        return self._after(attempt, death)

    def _after(self, attempt: _Try, death: Death) -> UnitOutcome | None:
        """What becomes of a unit whose worker died."""
        blamed = death.document and (death.cause == "document timeout" or death.document == attempt.last_document)
        if blamed and len(attempt.quarantine) < MAX_QUARANTINE:
            quarantine = attempt.quarantine | {death.document}
            self._again(replace(attempt, quarantine=quarantine, last_document=""))
            return None
        attempt = replace(attempt, last_document=death.document)
        if death.cause in ("memory", "unit timeout"):
            return self._once_more_alone(attempt, death.text)
        if attempt.attempt >= self.settings.attempts:
            return UnitOutcome(attempt.unit, None, death.text, attempt.attempt)
        self._later(attempt)
        return None

    def _once_more_alone(self, attempt: _Try, text: str) -> UnitOutcome | None:
        if attempt.alone:
            return UnitOutcome(attempt.unit, None, f"{text}, also when it ran alone", attempt.attempt)
        self.alone.append(replace(attempt, attempt=attempt.attempt + 1, alone=True))
        return None

    def _again(self, attempt: _Try) -> None:
        if attempt.alone:
            self.alone.appendleft(attempt)
        else:
            heapq.heappush(self.waiting, (time.monotonic(), next(self.order), attempt))

    def _later(self, attempt: _Try) -> None:
        due = time.monotonic() + _pause(self.settings.backoff_s, attempt.attempt)
        if attempt.alone:
            self.alone.append(replace(attempt, attempt=attempt.attempt + 1))
            return
        heapq.heappush(self.waiting, (due, next(self.order), replace(attempt, attempt=attempt.attempt + 1)))


def _pause(base: float, attempt: int) -> float:
    """1, 2, 4 … times the base, spread so that workers do not come back in step."""
    return base * 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25)
