"""Bootstrap intervals: how far a figure would move on another sample of the same size.

Ratios (bits per byte) are resampled as ratios of sums, so that long rows weigh as they do in the figure itself. Two
models are compared on the same resampled rows: what is hard for both cancels out, and small differences show.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A figure, its interval, and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


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


def paired_difference(left: np.ndarray, right: np.ndarray, denominators: np.ndarray, how: Resampling) -> Interval:
    """``(sum(left) - sum(right)) / sum(denominators)`` with both models on the same resampled rows."""
    return ratio_interval(left - right, denominators, how)
