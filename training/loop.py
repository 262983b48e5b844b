"""The training loop: step after step until the last, whatever happens in between.

Everything that decides the result is in ``Progress`` (where in the data the run is, what the guard remembers) and in
the engine; both are in every checkpoint. A kill costs the steps since the last checkpoint and changes no byte.

    skipped step     its update was not applied; its documents are reported
    rollback         too many skipped steps in a row: back to a checkpoint, on with the data *behind* the bad stretch
    new level        the same rise again right behind a rollback: it is the data; the guard accepts it
    preemption       SIGTERM: the ranks agree at the end of a step that was not skipped, save, and leave
"""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.errors import HeadwaterError
from infra.job_main import Preempted
from training.checkpoint import Checkpoints
from training.engine import Engine, StepResult
from training.faults import SpikeGuard
from training.loader import Loader, MicroBatch, StepData

Losses = Callable[[Any, MicroBatch], dict[str, Any]]


@dataclass
class Progress:
    """Which data each step saw. Consumption is ``batch`` sequences a step, except where a rollback skipped some."""

    batch: int
    jumps: list[list[int]] = field(default_factory=lambda: [[0, 0]])
    """[step, consumed]: from this step on, counting starts at this position. Ascending."""
    skipped: list[int] = field(default_factory=list)
    """Steps whose update was not applied."""
    rollbacks: int = 0

    def consumed(self, step: int) -> int:
        """Sequences consumed before ``step``."""
        start, position = [jump for jump in self.jumps if jump[0] <= step][-1]
        return position + (step - start) * self.batch

    def roll_back(self, step: int, consumed: int) -> None:
        """Continue at ``step`` with the data from ``consumed`` on."""
        self.jumps = [jump for jump in self.jumps if jump[0] < step] + [[step, consumed]]
        self.skipped = [index for index in self.skipped if index < step]
        self.rollbacks += 1

    def state(self) -> dict[str, Any]:
        return {"jumps": self.jumps, "held": self.skipped, "rollbacks": self.rollbacks}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.jumps, self.skipped, self.rollbacks = state["jumps"], state["held"], state["rollbacks"]


@dataclass
class Events:
    """What the loop tells the outside; every one is called on all ranks."""

    step: Callable[[StepResult, float], None]
    """After each step, with its seconds."""
    skipped: Callable[[StepResult, StepData], None]
    warning: Callable[[str], None]
    evaluate: Callable[[int], None]
    """Run the validation; ``step`` steps are done."""


@dataclass
class Loop:
    engine: Engine
    loader: Loader
    losses: Losses
    guard: SpikeGuard
    checkpoints: Checkpoints
    progress: Progress
    events: Events
    checkpoint_every: int
    eval_every: int
    phase: Callable[[int], int] = lambda position: 0
    """The curriculum's phase to which the sequence consumed at this position belongs."""

    def resume(self) -> bool:
        """Take up the newest checkpoint that verifies; False where there is none."""
        loaded = self.checkpoints.load_newest()
        if loaded is None:
            return False
        self.guard.restore(loaded.state["guard"])
        self.progress.restore(loaded.state["progress"])
        if not loaded.exact:
            self.events.warning(
                f"the checkpoint of step {loaded.step} was made by another number of ranks or ZeRO stage; "
                "the run goes on with equal data and, within rounding, equal losses"
            )
        return True

    def run(self) -> None:
        """Train to the engine's last step. Raises ``Preempted`` after SIGTERM, with a checkpoint left behind."""
        with _Termination() as termination:
            while self.engine.step < self.engine.total_steps:
                steps = self.loader.steps(self.progress.consumed(self.engine.step))
                try:
                    for data in steps:
                        if self.take(data, lambda: termination.asked):
                            break
                finally:
                    steps.close()
        self.checkpoints.wait()

    def take(self, data: StepData, stop: Callable[[], bool]) -> bool:
        """One step and what follows from it; True when the data does not simply go on. ``stop()``: leave after it?"""
        began = time.perf_counter()
        self.guard.enter(self.phase(data.consumed + self.progress.batch - 1))
        result = self.engine.train_step(data.batches, self.losses, lambda batch: batch.tokens)
        self.guard.record(result.loss, result.grad_norm, result.skipped is not None)
        if result.skipped is not None:
            self.progress.skipped.append(result.step)
            self.events.skipped(result, data)
        self.events.step(result, time.perf_counter() - began)
        if self.guard.exhausted:
            if self.guard.new_level:
                self._accept()
            elif self._roll_back(data):
                return True
        done = self.engine.step
        # Nothing is saved among skipped steps: a rollback must find a checkpoint from before the trouble.
        if not self.guard.skipped and self.engine.any_rank(stop()):
            self._save(wait=True)
            raise Preempted(f"stopped by a signal after step {done}")
        if done % self.checkpoint_every == 0 and done < self.engine.total_steps and not self.guard.skipped:
            self._save()
        if self.eval_every and done % self.eval_every == 0 and done < self.engine.total_steps:
            self.events.evaluate(done)
        return done >= self.engine.total_steps

    def _save(self, wait: bool = False) -> None:
        self.checkpoints.save({"progress": self.progress.state(), "guard": self.guard.state()}, wait=wait)

    def _accept(self) -> None:
        said = self.guard.accept()
        self.events.warning(f"a new level at step {self.engine.step}: {said}; training goes on with it")

    def _roll_back(self, data: StepData) -> bool:
        """Go back and around the data; False where there is nothing to go back to and no need, either."""
        reached, number = self.engine.step, len(self.guard.skipped)
        if self.guard.rollbacks >= self.guard.config.rollbacks:
            raise HeadwaterError(
                f"training does not recover: {number} steps in a row were skipped at step {reached}, after "
                f"{self.guard.rollbacks} rollbacks",
                where=f"step {reached}",
                remedy="Look at the reasons and documents in the warnings, lower the learning rate, or set "
                "faults.sigmas to 0, which skips only what is not finite.",
            )
        self.checkpoints.wait()
        # A checkpoint that a signal left is passed over, so that with and without the signal the run goes on alike.
        loaded = self.checkpoints.load_newest(lambda step: step % self.checkpoint_every == 0)
        if loaded is None and self.guard.only_spikes:
            self._accept()
            return False
        if loaded is None:
            raise HeadwaterError(
                f"{number} steps in a row were skipped and there is no checkpoint to go back to",
                where=f"step {reached}",
                remedy="Lower the learning rate or lengthen the warm-up.",
            )
        self.guard.roll_back(loaded.state["guard"])
        self.progress.roll_back(loaded.step, data.consumed + self.progress.batch)
        self.events.warning(
            f"back to the checkpoint of step {loaded.step} from step {reached}; "
            f"training goes on with sequence {data.consumed + self.progress.batch}"
        )
        return True


class _Termination:
    """Remembers SIGTERM and SIGINT instead of dying of them, while training runs."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Termination":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
