"""The loop that supervised stages share: batches in a fixed order, validation, checkpoints, a clean stop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from torch import Tensor

from alignment.job import Job, MetricsLog
from infra.config import Json
from training.checkpoint import Checkpoints
from training.engine import Engine

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Plan(Generic[Batch]):
    """What to train on. ``batches(step)`` are this rank's micro batches of a step, a pure function of the step."""

    steps: int
    batches: Callable[[int], Sequence[Batch]]
    losses: Callable[[Any, Batch], dict[str, Tensor]]
    weight: Callable[[Batch], float]
    validate: Callable[[], Mapping[str, float]]
    validate_every: int
    checkpoint_every: int


def optimise(job: Job[Any], engine: Engine, plan: Plan[Batch]) -> dict[str, Json]:
    """Train from wherever the last checkpoint stands. Returns the figures of the last validation."""
    checkpoints = open_checkpoints(job, engine)
    loaded = checkpoints.load_newest()
    validation: dict[str, Json] = dict(loaded.state["validation"]) if loaded else {}
    metrics = MetricsLog(job.request.work_dir / "metrics.jsonl", job.ranks.first, engine.step)
    while engine.step < plan.steps:
        result = engine.train_step(plan.batches(engine.step), plan.losses, plan.weight)
        figures = {**result.losses, "grad_norm": result.grad_norm, "lr": result.lr}
        if result.held:
            job.emit("warning", message=f"step {result.step} was not applied: {result.held}")
        if engine.step % plan.validate_every == 0 or engine.step == plan.steps:
            measured = plan.validate()
            validation = dict(measured)
            figures |= measured
        metrics.append(result.step, figures)
        job.progress(engine.step, plan.steps, **figures)
        job.leave_if_told(partial(checkpoints.save, {"validation": validation}, wait=True))
        if engine.step % plan.checkpoint_every == 0 and engine.step < plan.steps:
            checkpoints.save({"validation": validation})
    checkpoints.save({"validation": validation}, wait=True)
    return validation


def open_checkpoints(job: Job[Any], engine: Engine) -> Checkpoints:
    return Checkpoints(engine, job.request.checkpoint_dir, lambda message: job.emit("warning", message=message))
