"""Learning rate as a pure function of the step.

Nothing is accumulated, so there is no scheduler state to save: a resumed run and an uninterrupted one ask the same
function. Two shapes, both after a linear warm-up, both at their floor in the last step:

* ``cosine``: half a cosine from the peak down to ``min_lr_ratio`` of it at the last step.
* ``wsd`` (warm-up, stable, decay): the peak is held, then falls as 1 - sqrt over the last ``decay_fraction`` of the
  steps. With ``decay_every`` the held phase is cut short by a decay at every so many steps, after which the rate
  returns to the peak: each trough is a finished model of that length, and training goes on from it.
"""

import math
from typing import Literal

from pydantic import Field

from infra.config import Config


class ScheduleConfig(Config):
    """How the learning rate moves over the steps of a run."""

    shape: Literal["cosine", "wsd"] = "cosine"
    """Curve after the warm-up."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the rate rises linearly from zero. A run that is not longer warms up in all but its last step."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Lowest rate as a fraction of the peak."""
    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    """wsd: fraction of a cycle (the whole run without ``decay_every``) spent decaying."""
    decay_every: int = Field(default=0, ge=0)
    """wsd: decay at the end of every so many steps and return to the peak after; 0: once, at the end."""


def learning_rate_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """The multiplier of the peak rate for ``step`` (counted from 0), in [0, 1]."""
    # The last step belongs to the curve, which ends there at the floor.
    warmup = min(config.warmup_steps, total_steps - 1)
    if step < warmup:
        return (step + 1) / warmup
    if config.shape == "cosine":
        progress = _fraction(step - warmup, total_steps - 1 - warmup)
        return config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    start, length = _cycle(config, step, total_steps)
    decay = max(1, round(length * config.decay_fraction))
    into_decay = step - (start + length - decay)
    if into_decay < 0:
        return 1.0
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 - math.sqrt(_fraction(into_decay + 1, decay)))


def _cycle(config: ScheduleConfig, step: int, total_steps: int) -> tuple[int, int]:
    """Start and length of the decay cycle that ``step`` lies in; a last, shorter one ends with the run."""
    if config.decay_every == 0:
        return 0, total_steps
    start = step // config.decay_every * config.decay_every
    return start, min(config.decay_every, total_steps - start)


def _fraction(part: int, whole: int) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 1.0
