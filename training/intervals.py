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


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """``sum(numerators) / sum(denominators)`` with its percentile bootstrap interval over the rows."""
    weights = _weights(len(numerators), resamples, seed)
    ratios = (weights @ numerators) / (weights @ denominators)
    return _interval(float(numerators.sum() / denominators.sum()), ratios, confidence, len(numerators))


def paired_difference(
    left: np.ndarray,
    right: np.ndarray,
    denominators: np.ndarray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """``(sum(left) - sum(right)) / sum(denominators)`` with both models on the same resampled rows."""
    return ratio_interval(left - right, denominators, resamples=resamples, confidence=confidence, seed=seed)


def _weights(rows: int, resamples: int, seed: int) -> np.ndarray:
    """How often each row occurs in each resample. Some row with a positive denominator occurs in every one."""
    draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    return draws.astype(np.float64)


def _interval(value: float, resampled: np.ndarray, confidence: float, rows: int) -> Interval:
    outside = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [outside, 1 - outside])
    return Interval(value, float(low), float(high), rows)
