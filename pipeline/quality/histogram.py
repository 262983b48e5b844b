"""The quantile of a column of probabilities, out of core and independent of order.

A probability falls into one of a million bins that are fine near 0 and near 1, where a classifier's scores crowd: the
bin is the leading bits of p as a 32-bit float below one half, and those of 1 - p, mirrored, above. (For floats from ½
to 1 the subtraction is exact.) Within a bin, values differ by at most 1/4096 of p or of 1 - p.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import InputError

_DROPPED_BITS = 11
_HALF = int(np.float32(0.5).view(np.uint32)) >> _DROPPED_BITS
_BINS = 2 * _HALF + 1


def bins_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each probability; a higher probability is never in a lower bin."""
    scores = np.clip(scores.astype(np.float32), 0, 1)
    low = scores <= 0.5
    bits = np.where(low, scores, np.float32(1) - scores).astype(np.float32).view(np.uint32).astype(np.int64)
    bits >>= _DROPPED_BITS
    return np.where(low, bits, _BINS - 1 - bits)


def score_bins(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin of each of any finite numbers: those from 0 to 1 as probabilities, others to 1/4096 of their size."""
    scores = np.nan_to_num(scores.astype(np.float32)) + np.float32(0)  # of zeros only the positive one
    coarse = np.abs(scores).view(np.uint32).astype(np.int64) >> _DROPPED_BITS
    beyond = coarse - (int(np.float32(1).view(np.uint32)) >> _DROPPED_BITS) + _BINS
    return np.where(scores < 0, -1 - coarse, np.where(scores > 1, beyond, bins_of(scores)))


def lower_edge(index: int) -> float:
    """The least probability of a bin."""
    if index <= _HALF:
        return _float_of(index)
    mirrored = _BINS - 1 - index  # holds 1 - p below the next bin's first value
    return 1.0 - _float_of(mirrored + 1, before=True)


def _float_of(index: int, before: bool = False) -> float:
    bits = (index << _DROPPED_BITS) - (1 if before else 0)
    return float(np.uint32(bits).view(np.float32))


def score_histogram(source: str, scores: NDArray[np.float32]) -> pa.Table:
    """How many of a source's scores fall into each bin that is not empty."""
    bins, counts = np.unique(bins_of(scores), return_counts=True)
    return pa.table({"source": pa.array([source] * len(bins), pa.string()), "bin": bins, "count": counts})


def add_histograms(tables: Iterable[pa.Table]) -> dict[str, NDArray[np.int64]]:
    """The histogram of each source, over all files."""
    totals: dict[str, NDArray[np.int64]] = {}
    for table in tables:
        for source in table.column("source").unique().to_pylist():
            part = table.filter(pc.equal(table.column("source"), source))
            total = totals.setdefault(source, np.zeros(_BINS, np.int64))
            np.add.at(total, part.column("bin").to_numpy(), part.column("count").to_numpy())
    return totals


def threshold_for(histogram: NDArray[np.int64], keep_fraction: float) -> float:
    """The highest bin edge at or above which at least this share of the scores lies."""
    total = int(histogram.sum())
    if total == 0:
        raise InputError("no document passes the rules, so there is nothing to keep a share of", remedy="Loosen them.")
    at_or_above = np.cumsum(histogram[::-1])[::-1]
    index = int(np.flatnonzero(at_or_above >= keep_fraction * total)[-1])
    return lower_edge(index)
