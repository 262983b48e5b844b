"""Intervals for the figures the stages report, as plain records."""

from dataclasses import asdict
from math import sqrt

import numpy as np

from training.intervals import Interval, Resampling, ratio_interval

Record = dict[str, float | int]


def wilson(successes: int, n: int, z: float = 1.959964) -> Record:
    """A proportion with Wilson's 95 % interval, which stays inside [0, 1] and is right for small n too."""
    if n < 1:
        raise ValueError("a proportion of nothing")
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return asdict(Interval(share, max(0.0, centre - half), min(1.0, centre + half), n))


def mean_interval(values: np.ndarray, seed: int) -> Record:
    """A mean with its bootstrap interval; the same values and seed give the same interval."""
    return asdict(ratio_interval(values, np.ones(len(values)), Resampling(seed=seed)))
