"""The loop that supervised stages share: batches in a fixed order, validation, checkpoints, a clean stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from alignment.best import Best, Figure
from alignment.job import Job, MetricsLog
from alignment.order import Order
from infra.config import Json
from training.checkpoint import Checkpoints
from training.engine import Engine

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Plan(Generic[Batch]):
    """What to train on. ``batch(indices)`` are some examples as tensors, ``weight`` what its losses are divided by."""

    order: Order
    batch: Callable[[np.ndarray], Batch]
    losses: Callable[[Any, Batch], dict[str, Tensor]]
    weight: Callable[[Batch], float]
    validate: Callable[[], Mapping[str, float]]
    validate_every: int
    checkpoint_every: int
    figure: Figure
    """Which of the figures of ``validate`` says what a step's model is worth."""


def optimise(job: Job[Any], engine: Engine, plan: Plan[Batch]) -> None:
    """Train from wherever the last checkpoint stands. The engine then holds the model to publish."""
    checkpoints = open_checkpoints(job, engine)
    best = best_of(job, engine, plan.figure)
    loaded = checkpoints.load_newest()
    validation: dict[str, Json] = dict(loaded.state["validation"]) if loaded else {}
    best.restore(loaded.state["best"] if loaded else None)
    metrics = MetricsLog(job.request.work_dir / "metrics.jsonl", job.ranks.first, engine.step)

    def state() -> dict[str, Json]:
        return {"validation": validation, "best": best.state()}

    steps = plan.order.steps
    while engine.step < steps:
        result = engine.train_step(_batches(job, engine, plan), _losses(plan), _weight(plan))
        figures = {**result.losses, "grad_norm": result.grad_norm, "lr": result.lr}
        if result.skipped:
            job.emit("warning", message=f"step {result.step} was not applied: {result.skipped}")
        kept = False
        if engine.step % plan.validate_every == 0 or engine.step == steps:
            measured = plan.validate()
            validation = dict(measured)
            figures |= measured
            kept = best.see(measured)
        metrics.append(result.step, figures)
        job.progress(engine.step, steps, **figures)
        job.leave_if_told(lambda: checkpoints.save(state(), wait=True))
        if kept:
            checkpoints.save(state(), wait=True)
            best.forget_older()
        elif engine.step % plan.checkpoint_every == 0 and engine.step < steps:
            checkpoints.save(state())
    checkpoints.save(state(), wait=True)
    job.stats |= {"steps": steps, "held_steps": engine.skipped_steps, **validation}
    conclude(job, best)


def best_of(job: Job[Any], engine: Engine, figure: Figure) -> Best:
    return Best(figure, engine, job.request.work_dir / "best", job.config.publish == "best")


def conclude(job: Job[Any], best: Best) -> None:
    """The model to publish is in the engine from here on; what is to be said of the training is said."""
    best.take()
    job.stats |= best.stats
    if best.engine.skipped_steps:
        number, steps = best.engine.skipped_steps, best.engine.step
        job.warn(f"{number} of {steps} updates were not applied: their loss or gradient was not finite")
    if complaint := best.complaint(job.request.stage):
        job.warn(complaint)


def _batches(job: Job[Any], engine: Engine, plan: Plan[Batch]) -> list[tuple[Batch, bool]]:
    """This rank's micro batches of the engine's step, each with whether it counts."""
    ranks = job.ranks
    parts = plan.order.parts(engine.step, job.config.micro_batch, ranks.rank, ranks.world_size)
    return [(plan.batch(part.indices), not part.idle) for part in parts]


def _losses(plan: Plan[Batch]) -> Callable[[Any, tuple[Batch, bool]], dict[str, Tensor]]:
    def losses(model: Any, item: tuple[Batch, bool]) -> dict[str, Tensor]:
        batch, counts = item
        found = plan.losses(model, batch)
        # An idle rank goes through the same motions: every rank must reduce every tensor.
        return found if counts else {name: value * 0.0 for name, value in found.items()}

    return losses


def _weight(plan: Plan[Batch]) -> Callable[[tuple[Batch, bool]], float]:
    return lambda item: plan.weight(item[0]) if item[1] else 0.0


def open_checkpoints(job: Job[Any], engine: Engine) -> Checkpoints:
    return Checkpoints(engine, job.request.checkpoint_dir, lambda message: job.emit("warning", message=message))
