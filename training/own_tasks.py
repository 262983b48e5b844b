"""Evaluations of other packages: a score for each of their items, of which intervals and comparisons are made as of our own.

evaluate: {tasks: ["my_pkg.rhymes:RHYMES"]}          in a recipe
headwater evaluate export --task my_pkg.rhymes:RHYMES
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import ConfigError, InputError
from infra.extensions import load
from training.text_model import TextModel

TAKEN = ("heldout", "humaneval")


@dataclass(frozen=True)
class OwnTask:
    """An evaluation of another package. ``scores`` reads and writes text with a model and gives a number for each item: the same
    items, in the same order, for every model, so that two models are compared item by item. Its mean is the figure."""

    name: str
    metric: str
    scores: Callable[[TextModel], Sequence[float]]


def own_tasks(given: Sequence[str]) -> list[OwnTask]:
    """The tasks by their dotted paths or the names under which packages offer them. Raises ConfigError."""
    tasks = [load(each, "tasks", OwnTask) for each in given]
    names = [*TAKEN, *(task.name for task in tasks)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two tasks are called {twice!r}", where="tasks", remedy="Give each a name of its own.")
    return tasks


def scores_of(task: OwnTask, model: TextModel) -> np.ndarray:
    """A number for each item. Raises InputError where there is none."""
    scores = np.asarray(list(task.scores(model)), np.float64)
    if scores.ndim != 1 or not len(scores) or not all(map(math.isfinite, scores)):
        what = "no items" if not len(scores) else "scores that are no finite numbers"
        raise InputError(f"the task {task.name!r} gives {what}", where="tasks", remedy="Give a number for each item.")
    return scores


def same_items(name: str, scores: Mapping[str, np.ndarray]) -> None:
    """Raises InputError unless all models (by name) were asked the same number of items."""
    numbers = {model: len(found) for model, found in scores.items()}
    if len(set(numbers.values())) > 1:
        counted = ", ".join(f"{model}: {number}" for model, number in numbers.items())
        raise InputError(
            f"the task {name!r} has other numbers of items for other models ({counted})",
            where="tasks",
            remedy="Give a number for each item, whatever the model.",
        )
