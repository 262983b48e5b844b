"""What supervised stages train on: batches of examples in a fixed order; and which step's model a stage publishes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from alignment.best import Best, Figure
from alignment.job import ModelJob
from alignment.order import Order, Part
from training.create_engine import create_engine
from training.engine import Engine
from training.loader import StepData
from training.loop import Batches, TrainingTask, TrainStep, train
from training.model import Decoder
from training.recorder import IterationResult

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Plan(Generic[Batch]):
    """What to train on: examples as tensors, their losses, and the ``weight`` that these are divided by."""

    order: Order
    lengths: np.ndarray
    """Tokens of each example."""
    batch: Callable[[Part], Batch]
    """The examples of a part. Of an idle one, which a rank computes to reduce every tensor as the others do, nothing counts."""
    losses: Callable[[Any, Batch], dict[str, Tensor]]
    weight: Callable[[Batch], float]
    validate: Callable[[], Mapping[str, float]]
    figure: Figure
    """Which of the figures of ``validate`` says what a step's model is worth."""
    names: Callable[[int], Sequence[str]] = lambda index: ()
    """The documents of an example, to name those of a skipped step."""
    prepare: Callable[[Sequence[Batch]], None] = lambda batches: None
    """Told of a rank's micro batches before a step."""


def engine_of(job: ModelJob[Any], model: nn.Module, steps: int) -> Engine:
    """The model under the optimizer that the stage's configuration asks for. Raises ConfigError where its ranks cannot
    share it."""
    config = job.config
    for decoder in (part for part in model.modules() if isinstance(part, Decoder)):
        config.check_model(decoder.config)
    engine = create_engine(model, config.optimizer(steps), config.parallel(), total_steps=steps, ranks=job.ranks)
    if config.engine == "torch":
        job.stats["mesh"] = str(engine.mesh)
    return engine


def optimise(job: ModelJob[Any], engine: Engine, plan: Plan[Batch]) -> None:
    """Train to the end of the plan. The engine then holds the model to publish."""
    order, mesh, share = plan.order, engine.mesh, engine.mesh.row_share(job.ranks.rank)

    def load(step: int) -> list[Batch]:
        """This rank's micro batches."""
        parts = order.parts(step, job.config.micro_batch, share, mesh.row_shares, least=mesh.pipeline)
        return [plan.batch(part) for part in parts]

    def iterate(step: TrainStep, data: StepData[Batch]) -> IterationResult:
        plan.prepare(data.batches)
        result = step(data.batches, plan.losses, plan.weight)
        return IterationResult(result, float(plan.lengths[order.indices(data.consumed // order.batch)].sum()))

    def names(data: StepData[Batch]) -> list[str]:
        indices = order.indices(data.consumed // order.batch)
        return sorted({name for index in indices.tolist() for name in plan.names(index)})

    task = TrainingTask(
        Batches(load, order.batch),
        iterate,
        plan.validate,
        job.config.validate_every,
        seq_len=round(float(plan.lengths.mean())),
        names=names,
    )
    tune(job, engine, task, plan.figure)


def tune(job: ModelJob[Any], engine: Engine, task: TrainingTask[Batch], figure: Figure) -> None:
    """Train. The engine then holds the model to publish: that of the last step, or of the best by a held-out figure."""
    best = Best(figure, engine, job.request.work_dir / "best", job.config.publish == "best")
    loop = train(job, engine, replace(task, keep=best.see, remembers={**task.remembers, "best": best}))
    figures = dict(task.evaluate()) if best.take() or loop.collapse else loop.figures
    job.stats |= figures | best.stats
    if complaint := best.complaint(job.request.stage):
        job.warn(complaint)
