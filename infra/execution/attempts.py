"""What becomes of a unit after an attempt: the same rules wherever units run.

An executor asks ``Attempts`` for the next attempt to make and tells it how each one ended: with an answer of the worker
(a receipt, or a failure in words), or with the worker's death. A unit leaves with one outcome:

| how an attempt ended | what follows |
|---|---|
| receipt | done |
| network or remote store | another attempt after a pause that doubles |
| wrong input, or a defect | the unit is given up |
| a document overstayed, or ended two workers in a row | another attempt with that document in quarantine |
| the worker died, or its machine was lost | another attempt |
| too much memory, or the unit overstayed | one more attempt alone with all the memory |
| every further unit would fail the same way | raised |
"""

import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from infra.errors import HeadwaterError
from infra.execution.base import Failure, UnitOutcome, UnitTask
from infra.stage import Receipt, Unit

MAX_QUARANTINE = 32

Cause = Literal["memory", "unit timeout", "document timeout", "death"]


@dataclass(frozen=True)
class Death:
    """Why a worker ended before its unit did, and the document it was at."""

    cause: Cause
    text: str
    document: str = ""


@dataclass(frozen=True)
class Try:
    """One unit's state between attempts."""

    unit: Unit
    attempt: int = 1
    quarantine: frozenset[str] = frozenset()
    last_document: str = ""
    alone: bool = False


@dataclass
class Attempts:
    """The units still to do, and the attempts to make again. ``units`` is consumed as workers become free."""

    units: Iterator[Unit]
    limit: int = 3
    """Attempts at a unit whose worker died or whose remote store did not answer."""
    backoff_s: float = 1.0
    waiting: list[tuple[float, int, Try]] = field(default_factory=list)
    """A heap of later attempts by the time they are due."""
    alone: deque[Try] = field(default_factory=deque)
    """Attempts that get a machine to themselves, when everything else is done."""
    order: Iterator[int] = field(default_factory=itertools.count)
    exhausted: bool = False

    def next(self, running: Collection[Try], lone_slots: int = 1) -> Try | None:
        """The next attempt to make now: fresh units first, then those due again, then up to ``lone_slots`` lone ones."""
        if not any(attempt.alone for attempt in running):
            if self.waiting and self.waiting[0][0] <= time.monotonic():
                return heapq.heappop(self.waiting)[2]
            if not self.exhausted:
                unit = next(self.units, None)
                if unit is not None:
                    return Try(unit)
                self.exhausted = True
        only_lone = len(running) < lone_slots and all(attempt.alone for attempt in running)
        if self.alone and not self.waiting and only_lone:
            return self.alone.popleft()
        return None

    @property
    def finished(self) -> bool:
        """Nothing is left to hand out."""
        return self.exhausted and not self.waiting and not self.alone

    def pause_s(self, most: float) -> float:
        """How long an executor with nothing running may sleep."""
        return max(0.0, min(most, self.waiting[0][0] - time.monotonic())) if self.waiting else most

    def answered(self, attempt: Try, answer: Receipt | Failure) -> UnitOutcome | None:
        """The unit's outcome, or None if it is tried again."""
        if isinstance(answer, Receipt):
            return UnitOutcome(attempt.unit, answer, attempts=attempt.attempt)
        if answer.fatal:
            raise answer.fatal
        if answer.memory:
            return self._once_more_alone(attempt, answer.text)
        if answer.transient and attempt.attempt < self.limit:
            self._later(attempt)
            return None
        return UnitOutcome(attempt.unit, None, answer.text, attempt.attempt)

    def died(self, attempt: Try, death: Death) -> UnitOutcome | None:
        """What becomes of a unit whose worker died."""
        blamed = death.document and (death.cause == "document timeout" or death.document == attempt.last_document)
        if blamed and len(attempt.quarantine) < MAX_QUARANTINE:
            quarantine = attempt.quarantine | {death.document}
            self._again(replace(attempt, quarantine=quarantine, last_document=""))
            return None
        attempt = replace(attempt, last_document=death.document)
        if death.cause in ("memory", "unit timeout"):
            return self._once_more_alone(attempt, death.text)
        if attempt.attempt >= self.limit:
            return UnitOutcome(attempt.unit, None, death.text, attempt.attempt)
        self._later(attempt)
        return None

    def _once_more_alone(self, attempt: Try, text: str) -> UnitOutcome | None:
        if attempt.alone:
            return UnitOutcome(attempt.unit, None, f"{text}, also when it ran alone", attempt.attempt)
        self.alone.append(replace(attempt, attempt=attempt.attempt + 1, alone=True))
        return None

    def _again(self, attempt: Try) -> None:
        if attempt.alone:
            self.alone.appendleft(attempt)
        else:
            heapq.heappush(self.waiting, (time.monotonic(), next(self.order), attempt))

    def _later(self, attempt: Try) -> None:
        following = replace(attempt, attempt=attempt.attempt + 1)
        if attempt.alone:
            self.alone.append(following)
        else:
            due = time.monotonic() + backoff(self.backoff_s, attempt.attempt)
            heapq.heappush(self.waiting, (due, next(self.order), following))


def backoff(base: float, attempt: int) -> float:
    """1, 2, 4 … times the base, spread so that workers do not come back in step."""
    return base * 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25)


def start_error(task: UnitTask, failure: Failure) -> HeadwaterError:
    """The error of a worker that could not open the task: no unit of it can be processed anywhere."""
    return failure.fatal or HeadwaterError(
        f"step {task.step!r} of {task.reference} cannot be started: {failure.text}",
        remedy="Mend the stage or its inputs, then run again.",
    )
