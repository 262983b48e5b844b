"""Scaling law from a ladder of small runs: what would the large run reach?

Runs of growing size, each trained on the same number of tokens a parameter, are points (compute, loss). Through them goes

    loss(C) = floor + scale · (C / C₀)^-slope

a curve with three parameters, so a ladder needs at least four rungs to say anything about its own error. For a given
slope the other two follow by linear least squares; the slope is found by search. The interval of a prediction comes
from refitting the curve to points that are shaken by as much as the real ones scatter around it: it knows about noise,
not about a law that bends.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.errors import ConfigError, InputError
from training.intervals import Interval
from training.scale import plan_scale

SLOPES = np.geomspace(0.01, 1.0, 400)
SHAKES = 400


@dataclass(frozen=True)
class Point:
    """One finished run: training FLOPs and the loss it reached (bits per byte, or nats a token)."""

    flops: float
    loss: float
    name: str = ""


@dataclass(frozen=True)
class Law:
    """A fitted curve. ``scatter`` is the standard deviation of the points around it."""

    floor: float
    scale: float
    slope: float
    unit: float
    scatter: float
    points: tuple[Point, ...]

    def loss(self, flops: float) -> float:
        return float(self.floor + self.scale * (flops / self.unit) ** -self.slope)


def rungs(sizes: Sequence[float], **settings: Any) -> list[dict[str, Any]]:
    """Settings of the stage ``pretrain`` for each size, by the rules of ``training.scale``."""
    if len(set(sizes)) < 4:
        raise ConfigError("a ladder needs at least four sizes", remedy="For example 1e6, 2e6, 4e6 and 8e6.")
    derived = {size: plan_scale(parameters=size, **settings).recipe() for size in sorted(set(sizes))}
    shapes = {json.dumps(settings_of["model"], sort_keys=True) for settings_of in derived.values()}
    if len(shapes) < 4:
        raise ConfigError(
            f"{len(derived)} sizes make {len(shapes)} different models",
            where=", ".join(f"{size:,.0f}" for size in derived),
            remedy="Choose sizes further apart, for example each twice the one before.",
        )
    return list(derived.values())


def fit(points: Sequence[Point]) -> Law:
    """The law through at least four points of different compute."""
    if len({point.flops for point in points}) < 4:
        raise InputError(
            f"{len(points)} runs are too few to fit a scaling law", remedy="Run at least four different sizes."
        )
    ordered = tuple(sorted(points, key=lambda point: point.flops))
    unit = ordered[0].flops
    compute = np.array([point.flops for point in ordered]) / unit
    losses = np.array([point.loss for point in ordered])
    if not (np.isfinite(losses).all() and (compute > 0).all()):
        raise InputError("a run of the ladder has no finite loss", remedy="Leave it out or run it again.")
    floor, scale, slope, error = _curve(compute, losses)
    scatter = math.sqrt(error / max(1, len(ordered) - 3))
    return Law(floor, scale, slope, unit, scatter, ordered)


def predict(law: Law, flops: float, confidence: float = 0.9, seed: int = 0) -> Interval:
    """The loss at another compute, with the interval that the points' own scatter implies."""
    compute = np.array([point.flops for point in law.points]) / law.unit
    on_curve = np.array([law.loss(point.flops) for point in law.points])
    noise = np.random.default_rng(seed).normal(0.0, max(law.scatter, 1e-12), (SHAKES, len(compute)))
    outcomes = []
    for row in noise:
        floor, scale, slope, _ = _curve(compute, on_curve + row)
        outcomes.append(floor + scale * (flops / law.unit) ** -slope)
    outside = (1 - confidence) / 2
    low, high = np.quantile(np.array(outcomes), [outside, 1 - outside])
    value = law.loss(flops)
    return Interval(value, min(float(low), value), max(float(high), value), len(law.points))


def _curve(compute: np.ndarray, losses: np.ndarray) -> tuple[float, float, float, float]:
    """Floor, scale, slope and squared error of the best curve with a floor and a scale that are not negative."""
    # All slopes at once: a regression of the losses on C^-slope for each.
    powers = compute[None, :] ** -SLOPES[:, None]
    centred = powers - powers.mean(1, keepdims=True)
    scale = np.maximum((centred * (losses - losses.mean())).sum(1) / (centred**2).sum(1), 0.0)
    floor = losses.mean() - scale * powers.mean(1)
    below = floor < 0
    scale = np.where(below, np.maximum((powers * losses).sum(1) / (powers**2).sum(1), 0.0), scale)
    floor = np.where(below, 0.0, floor)
    errors = ((floor[:, None] + scale[:, None] * powers - losses) ** 2).sum(1)
    best = int(errors.argmin())
    return float(floor[best]), float(scale[best]), float(SLOPES[best]), float(errors[best])
