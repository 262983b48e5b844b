"""Which of several copies stays.

A document's *rank* is 128 bits that order as the configured criteria do, the smaller staying: criteria from the most to
the least significant bits, the first 32 bits of the id last. Documents kept by an earlier run always stay. A document
without the value of a criterion loses against one that has it.
"""

import datetime
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.config import DedupConfig

NEW = np.uint64(1) << np.uint64(63)
"""The top bit of a rank: set for new documents, clear for those an earlier run kept."""

_BITS = {"source": 7, "quality": 32, "length": 32, "date": 24, "id": 32}


def ranks(
    config: DedupConfig, batch: pa.RecordBatch, ids: NDArray[np.uint64], lengths: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Ranks (n, 2) of new documents."""
    # One 128-bit register, filled from the right: the leading 1 ends up as the bit NEW.
    high = np.zeros(len(ids), np.uint64)
    low = np.ones(len(ids), np.uint64)
    used = 1
    for criterion in dict.fromkeys((*config.survivor, "id")):
        if criterion == "source":
            value = _source(batch["source"], config.source_priority)
        elif criterion == "quality":
            value = _quality(batch["quality"])
        elif criterion == "length":
            value = np.uint64(2**32 - 1) - np.minimum(lengths, np.uint64(2**32 - 1))
        elif criterion == "date":
            value = _date(batch["date"])
        else:
            value = ids[:, 0] >> np.uint64(32)
        bits = np.uint64(_BITS[criterion])
        high = (high << bits) | (low >> (np.uint64(64) - bits))
        low = (low << bits) | value
        used += _BITS[criterion]
    rest = np.uint64(128 - used)
    if rest >= 64:
        high, low = low << (rest - np.uint64(64)), np.zeros_like(low)
    elif rest:
        high, low = (high << rest) | (low >> (np.uint64(64) - rest)), low << rest
    return np.stack([high, low], axis=1)


def _source(column: pa.Array, priority: Sequence[str]) -> NDArray[np.uint64]:
    order = {source: number for number, source in enumerate(priority[:126])}
    values, rows = distinct_values(column)
    return np.array([order.get(source or "", 127) for source in values], np.uint64)[rows]


def _quality(column: pa.Array) -> NDArray[np.uint64]:
    """The better the smaller: the bits of a float, made to order as the numbers do, turned around; none is worst."""
    values = column.cast(pa.float32()).fill_null(float("-inf")).to_numpy(zero_copy_only=False)
    values = np.where(np.isnan(values), np.float32("-inf"), values).astype(np.float32) + np.float32(0)
    bits = values.view(np.uint32)
    ordered = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
    return (np.uint32(0xFFFFFFFF) - ordered).astype(np.uint64)


def _date(column: pa.Array) -> NDArray[np.uint64]:
    """Days since the year 1; unknown or unreadable dates come last."""
    values, rows = distinct_values(column)
    return np.array([_day(value) for value in values], np.uint64)[rows]


def _day(value: str | None) -> int:
    try:
        return datetime.date.fromisoformat((value or "")[:10]).toordinal()
    except ValueError:
        return (1 << 24) - 1


def distinct_values(column: pa.Array) -> tuple[list[str | None], NDArray[np.int64]]:
    """The values of a column, each once, and for every row the number of its value."""
    encoded = column.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def text_lengths(column: pa.Array) -> NDArray[np.uint64]:
    lengths: NDArray[np.uint64] = pc.utf8_length(column).to_numpy(zero_copy_only=False).astype(np.uint64)
    return lengths
