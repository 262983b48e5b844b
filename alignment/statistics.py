"""Intervals for the figures the stages report."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def wilson(successes: float, n: int, z: float = 1.959964) -> Estimate:
    """A proportion with Wilson's score interval, which stays inside [0, 1] and is right for small n too."""
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Estimate(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)


def bootstrap_mean(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> Estimate:
    """A mean with its percentile bootstrap interval (seeded: the same values give the same interval)."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(0, sample.size, size=(resamples, sample.size))
    low, high = np.percentile(sample[draws].mean(axis=1), [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high), int(sample.size))
