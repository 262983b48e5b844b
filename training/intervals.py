"""Intervals: how far a figure would move on another sample of the same size.

Ratios (bits per byte) are resampled as ratios of sums, so that long rows weigh as they do in the figure itself. Two
models are compared by their difference on each row: what is hard for both cancels out, and small differences show.
"""

from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A figure, its interval, and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, how: Resampling) -> Interval:
    """``sum(numerators) / sum(denominators)`` with its percentile bootstrap interval over the rows."""
    rows = len(numerators)
    draws = np.random.default_rng(how.seed).multinomial(rows, np.full(rows, 1 / rows), size=how.resamples)
    weights = draws.astype(np.float64)
    outside = (1 - how.confidence) / 2
    low, high = np.quantile((weights @ numerators) / (weights @ denominators), [outside, 1 - outside])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high), rows)


def mean_interval(values: np.ndarray, seed: int) -> Interval:
    """A mean with its bootstrap interval; the same values and seed give the same interval."""
    return ratio_interval(values, np.ones(len(values)), Resampling(seed=seed))


def wilson(successes: int, n: int, z: float = 1.959964) -> Interval:
    """A proportion with Wilson's 95 % interval, which stays inside [0, 1] and is right for small n too."""
    if n < 1:
        raise ValueError("a proportion of nothing")
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n)
