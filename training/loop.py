"""The training loop of pretraining and of every alignment stage: iteration after iteration until the last.

An iteration takes one batch of examples and makes one optimizer step of it; PPO's samples replies and makes several. What
a stage brings is its ``TrainingTask``. Everything that decides the result is in ``Progress`` (where in the data the run is), in
the guard, in what the task remembers and in the engine; all are in every checkpoint. A kill costs the iterations since the
last checkpoint and changes no byte.

    skipped step     its update was not applied; the documents of its batch are reported
    rollback         too many skipped steps in a row: back to a checkpoint, on with the data *behind* the bad stretch
    new level        the same rise again right behind a rollback: it is the data; the guard accepts it
    preemption       SIGTERM: the ranks agree at the end of an iteration that was not skipped, save, and leave
"""

import itertools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from infra.config import Json
from infra.errors import HeadwaterError
from infra.job_main import Preempted
from training.checkpoint import Checkpoints
from training.engine import Engine, Losses, Read, StepResult
from training.faults import Collapse, SpikeGuard
from training.hub_format import write_model
from training.job import Job, StopSignal
from training.loader import StepData
from training.metrics import flops_per_token
from training.model import decoders_of, parameter_count
from training.recorder import IterationResult, Recorder
from training.weights import Weights

Batch = TypeVar("Batch")
Figures = Mapping[str, float]
TrainStep = Callable[[Sequence[Any], Losses[Any], Callable[[Any], float]], StepResult]
"""``Engine.train_step`` under the eyes of the guard: (micro batches, losses, weight) -> what came of it."""


class BatchSource(Protocol[Batch]):
    """Batches of examples in an order that depends on nothing but the configuration."""

    batch: int
    """Examples of an iteration, on all ranks together."""
    wait_seconds: float
    """Spent on getting them so far."""

    def steps(self, consumed: int) -> Generator[StepData[Batch], None, None]:
        """Endless iterations, the first one behind so many examples."""
        ...


@dataclass
class Batches(Generic[Batch]):
    """A source that loads an iteration when it is asked for: ``load(n)`` are this rank's micro batches of the n-th."""

    load: Callable[[int], list[Batch]]
    batch: int
    wait_seconds: float = 0.0

    def steps(self, consumed: int) -> Generator[StepData[Batch], None, None]:
        for iteration in itertools.count(consumed // self.batch):
            began = time.perf_counter()
            batches = self.load(iteration)
            self.wait_seconds += time.perf_counter() - began
            yield StepData(iteration * self.batch, batches)


class Stateful(Protocol):
    """Something that decides the result, and therefore is in every checkpoint."""

    def state(self) -> dict[str, Json]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingTask(Generic[Batch]):
    """What a stage trains on, how, and what it measures."""

    source: BatchSource[Batch]
    iterate: Callable[[TrainStep, StepData[Batch]], IterationResult]
    """Make one iteration's optimizer steps, each by the given function."""
    evaluate: Callable[[], Figures]
    """Figures on held-out data, equal on all ranks; after the last iteration, and every ``evaluate_every``."""
    evaluate_every: int = 0
    seq_len: int = 0
    """Tokens of a usual sequence: what a token costs in attention."""
    steps: int = 1
    """Optimizer steps of an iteration."""
    phase: Callable[[int], int] = lambda position: 0
    """The curriculum's phase to which the example consumed at this position belongs."""
    names: Callable[[StepData[Batch]], Sequence[str]] = lambda data: ()
    """The documents of an iteration, to name those of a skipped step."""
    keep: Callable[[Figures], bool] = lambda figures: False
    """Told what was measured. True: it has written something that a checkpoint must name, and one is made at once."""
    collapsed: Callable[[Figures], Collapse | None] = lambda figures: None
    """Told the figures of an iteration. What it returns ends the training at the last checkpoint that was well."""
    remembers: Mapping[str, Stateful] = field(default_factory=dict)
    """By the name it has in a checkpoint."""


@dataclass
class Progress:
    """Which data each iteration saw: ``batch`` examples each, except where a rollback skipped some."""

    batch: int
    steps: int = 1
    """Optimizer steps of an iteration."""
    jumps: list[list[int]] = field(default_factory=lambda: [[0, 0]])
    """[iteration, consumed]: from this one on, counting starts at this position. Ascending."""
    skipped: list[int] = field(default_factory=list)
    """Optimizer steps whose update was not applied."""
    rollbacks: int = 0

    def consumed(self, iteration: int) -> int:
        """Examples consumed before ``iteration``."""
        start, position = [jump for jump in self.jumps if jump[0] <= iteration][-1]
        return position + (iteration - start) * self.batch

    def roll_back(self, iteration: int, consumed: int) -> None:
        """Continue at ``iteration`` with the data from ``consumed`` on."""
        self.jumps = [jump for jump in self.jumps if jump[0] < iteration] + [[iteration, consumed]]
        self.skipped = [step for step in self.skipped if step < iteration * self.steps]
        self.rollbacks += 1

    def state(self) -> dict[str, Any]:
        return {"jumps": self.jumps, "held": self.skipped, "rollbacks": self.rollbacks}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.jumps, self.skipped, self.rollbacks = state["jumps"], state["held"], state["rollbacks"]


@dataclass
class Loop(Generic[Batch]):
    engine: Engine
    task: TrainingTask[Batch]
    guard: SpikeGuard
    checkpoints: Checkpoints
    recorder: Recorder
    checkpoint_every: int
    stop: StopSignal = field(default_factory=StopSignal)
    figures: dict[str, float] = field(default_factory=dict)
    """What was measured last."""
    collapse: Collapse | None = None
    """Why training ended before its last step."""

    def __post_init__(self) -> None:
        self.engine.veto = self.guard.veto
        self.checkpoints.regular = self.checkpoint_every * self.task.steps
        self.progress = Progress(self.task.source.batch, self.task.steps)

    @property
    def done(self) -> int:
        """Iterations made."""
        return self.engine.step // self.task.steps

    def resume(self) -> bool:
        """Take up the newest checkpoint that verifies; False where there is none."""
        loaded = self.checkpoints.load_newest()
        if loaded is None:
            return False
        self.guard.restore(loaded.state["guard"])
        self._restore(loaded.state)
        if not loaded.exact:
            self.recorder.warning(
                f"the checkpoint of step {loaded.step} was made by another number of ranks or ZeRO stage; "
                "the run goes on with equal data and, within rounding, equal losses"
            )
        return True

    def run(self) -> None:
        """Train to the engine's last step. Raises ``Preempted`` after SIGTERM, with a checkpoint left behind."""
        while self.engine.step < self.engine.total_steps and self.collapse is None:
            steps = self.task.source.steps(self.progress.consumed(self.done))
            try:
                for data in steps:
                    if self.take(data):
                        break
            finally:
                steps.close()
        self.checkpoints.wait()

    def take(self, data: StepData[Batch]) -> bool:
        """One iteration and what follows from it; True when the data does not simply go on."""
        began = time.perf_counter()
        self.guard.enter(self.task.phase(data.consumed + self.task.source.batch - 1))
        outcome = self.task.iterate(partial(self._train_step, data), data)
        self.recorder.step(self.done, outcome, time.perf_counter() - began)
        if collapse := self.task.collapsed(outcome.figures or {}):
            self._give_up(collapse)
            return True
        if self.guard.exhausted:
            if self.guard.new_level:
                self._accept()
            elif self._roll_back(data):
                return True
        last = self.engine.step >= self.engine.total_steps
        kept = self._evaluate() if last or self._due(self.task.evaluate_every) else False
        # Nothing is saved among skipped steps: a rollback must find a checkpoint from before the trouble.
        skipping = bool(self.guard.skipped)
        if not skipping and self.engine.any_rank(self.stop.received):
            self._save(wait=True)
            raise Preempted(f"stopped by a signal after step {self.done}")
        if last or (not skipping and (kept or self._due(self.checkpoint_every))):
            self._save(wait=last or kept)
        return last

    def stats(self) -> dict[str, Json]:
        return {
            "steps": self.engine.total_steps,
            "held_steps": self.engine.skipped_steps,
            "rollbacks": self.progress.rollbacks,
        } | ({"collapsed": self.collapse.reason, "ended_at": self.done} if self.collapse else {})

    def warnings(self) -> list[str]:
        """What a user of the model must know of updates that were refused."""
        skipped, rollbacks = self.engine.skipped_steps, self.progress.rollbacks
        if self.collapse:
            return [f"training collapsed and ended: {self.collapse.reason}; published is the model of step {self.done}"]
        if not skipped:
            return []
        back = f", and training went back to an earlier checkpoint (rollbacks: {rollbacks})" if rollbacks else ""
        return [
            f"{skipped} of {self.engine.total_steps} updates were not applied{back}: the run's warnings name reasons and "
            "documents"
        ]

    def _train_step(
        self, data: StepData[Batch], batches: Sequence[Any], losses: Losses[Any], weight: Callable[[Any], float]
    ) -> StepResult:
        result = self.engine.train_step(batches, losses, weight)
        self.guard.record(result.loss, result.grad_norm, result.skipped is not None)
        if result.skipped is not None:
            self.progress.skipped.append(result.step)
            self.recorder.skipped(result, self.task.names(data))
        return result

    def _due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _evaluate(self) -> bool:
        """Measure; whether a checkpoint must be made of it."""
        self.recorder.measuring()
        self.figures = dict(self.task.evaluate())
        self.recorder.measured(self.done, self.figures)
        return self.task.keep(self.figures)

    def _save(self, wait: bool) -> None:
        state: dict[str, Json] = {name: part.state() for name, part in self.task.remembers.items()}
        finite: dict[str, Json] = {name: value for name, value in self.figures.items() if math.isfinite(value)}
        state |= {"progress": self.progress.state(), "guard": self.guard.state(), "figures": finite}
        self.checkpoints.save(state, wait=wait)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.progress.restore(state["progress"])
        self.figures = dict(state.get("figures", {}))
        for name, part in self.task.remembers.items():
            part.restore(state[name])

    def _give_up(self, collapse: Collapse) -> None:
        """Back to the last checkpoint that was well, and no further."""
        self.checkpoints.wait()
        limit, regular = collapse.healthy * self.task.steps, self.checkpoints.regular
        loaded = self.checkpoints.load_newest(lambda step: step <= limit and step % regular == 0)
        if loaded is None or loaded.step > limit:
            raise HeadwaterError(
                f"training has collapsed and there is no checkpoint from before: {collapse.reason}",
                where=f"step {self.done}",
                remedy="Lower the learning rate, or make checkpoints more often (checkpoint_every).",
            )
        self.guard.restore(loaded.state["guard"])
        self._restore(loaded.state)
        self.collapse = collapse
        self.recorder.warning(f"training has collapsed ({collapse.reason}): back to step {self.done}, and no further")

    def _accept(self) -> None:
        levels = self.guard.accept()
        self.recorder.warning(f"a new level at step {self.engine.step}: {levels}; training goes on with it")

    def _roll_back(self, data: StepData[Batch]) -> bool:
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
        loaded = self.checkpoints.load_newest(lambda step: step % self.checkpoints.regular == 0)
        if loaded is None and self.guard.only_spikes:
            self._accept()
            return False
        if loaded is None:
            raise HeadwaterError(
                f"{number} steps in a row were skipped and there is no checkpoint to go back to",
                where=f"step {reached}",
                remedy="Lower the learning rate or lengthen the warm-up.",
            )
        behind, rollbacks = data.consumed + self.task.source.batch, self.progress.rollbacks
        self.guard.roll_back(loaded.state["guard"])
        self._restore(loaded.state)
        self.progress.rollbacks = rollbacks
        self.progress.roll_back(self.done, behind)
        self.recorder.went_back(self.done)
        self.recorder.warning(
            f"back to the checkpoint of step {loaded.step} from step {reached}; training goes on with sequence {behind}"
        )
        return True


def open_loop(job: Job[Any], engine: Engine, task: TrainingTask[Batch], recorder: Recorder) -> Loop[Batch]:
    """The loop of a job, before its first iteration."""
    config = job.config
    folder, keep_every = job.request.checkpoint_dir, config.keep_every * task.steps
    checkpoints = Checkpoints(engine, folder, recorder.warning, config.keep_last, keep_every)
    guard = SpikeGuard(config.faults)
    return Loop(engine, task, guard, checkpoints, recorder, config.checkpoint_every, job.stop)


def train(job: Job[Any], engine: Engine, task: TrainingTask[Batch]) -> Loop[Batch]:
    """Train from wherever the last checkpoint stands; figures, files and warnings are put into the job."""
    flops = sum(flops_per_token(decoder.config, task.seq_len) for decoder in decoders_of(engine.model).values())
    recorder = Recorder(job, engine.total_steps // task.steps, flops, lambda: task.source.wait_seconds)
    loop = open_loop(job, engine, task, recorder)
    loop.resume()
    recorder.begin(loop.done)
    loop.run()
    job.outputs |= dict.fromkeys(recorder.close(), False)
    job.stats |= recorder.summary() | loop.stats()
    for sentence in loop.warnings():
        job.warn(sentence)
    return loop


def publish_model(
    job: Job[Any],
    engine: Engine,
    tokenizer: Path,
    *,
    score: str = "",
    changed: Callable[[Read], Read] = lambda read: read,
) -> None:
    """Write ``data/model`` with the tokenizer's files from a folder, a weight at a time. Collective.

    ``score`` names the weight ``[1, hidden]`` that makes it a reward model; ``changed`` reads what is to be written of a weight.
    """
    job.phase("publishing")
    prefix, decoder = next(iter(decoders_of(engine.model).items()))

    def write(read: Read) -> None:
        weights = Weights(decoder.config, engine.precision, changed(lambda name: read(prefix + name)))
        names = write_model(weights, job.request.data_dir / "model", tokenizer, score=read(score) if score else None)
        job.outputs |= {f"data/model/{name}": True for name in names}
        job.stats["parameters"] = parameter_count(decoder.config)

    engine.read_weights(write)
