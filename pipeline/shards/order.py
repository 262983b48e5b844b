"""The order in which rows are seen: a permutation that can be asked at any place, in both directions.

Training counts the sequences it has consumed; which row comes next follows from (seed, epoch, position) alone, so it
does not depend on the number of ranks, survives any restart, and needs no list of indices in memory. A trace asks the
other way round: at which position does this row come?

The phases of a curriculum are shuffled each within itself and follow one another; an epoch is all of them.

The permutation is a Feistel network (four rounds) over the smallest even number of bits that holds ``n``; results
beyond ``n`` are put through again until they fall inside, which keeps it a permutation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 4
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class ShuffledOrder:
    """The order of all rows of a split, over any number of epochs."""

    seed: int
    phases: Sequence[int]

    def rows(self, consumed: np.ndarray) -> np.ndarray:
        return rows_of(self.seed, consumed, self.phases)

    def consumed(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        return consumed_of(self.seed, epoch, rows, self.phases)


def row_at(seed: int, epoch: int, position: int | np.ndarray, n: int) -> np.ndarray:
    """The rows at some positions of an epoch: ``0 <= position < n`` and as many rows."""
    return _walk(_forward, seed, epoch, position, n)


def position_of(seed: int, epoch: int, row: int | np.ndarray, n: int) -> np.ndarray:
    """The positions at which some rows come in an epoch: the inverse of ``row_at``."""
    return _walk(_backward, seed, epoch, row, n)


def rows_of(seed: int, consumed: np.ndarray, phases: Sequence[int]) -> np.ndarray:
    """The rows for running numbers of consumed sequences, across epochs. ``phases``: how many rows each has."""
    epochs, positions = np.divmod(np.asarray(consumed, dtype=np.int64), sum(phases))
    rows = np.empty(positions.shape, dtype=np.int64)
    for start, size in spans(phases):
        inside = (positions >= start) & (positions < start + size)
        for epoch in np.unique(epochs[inside]):
            chosen = inside & (epochs == epoch)
            rows[chosen] = start + row_at(seed, int(epoch), positions[chosen] - start, size)
    return rows


def consumed_of(seed: int, epoch: int, rows: np.ndarray, phases: Sequence[int]) -> np.ndarray:
    """The running numbers under which some rows come in an epoch: the inverse of ``rows_of``."""
    rows = np.asarray(rows, dtype=np.int64)
    consumed = np.empty(rows.shape, dtype=np.int64)
    for start, size in spans(phases):
        inside = (rows >= start) & (rows < start + size)
        if inside.any():
            consumed[inside] = epoch * sum(phases) + start + position_of(seed, epoch, rows[inside] - start, size)
    return consumed


def phase_of(consumed: int, phases: Sequence[int]) -> int:
    """The phase to which a running number of consumed sequences belongs."""
    position = consumed % sum(phases)
    return next(phase for phase, (start, size) in enumerate(spans(phases)) if position < start + size)


def spans(phases: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first row of each phase and how many it has."""
    start = 0
    for size in phases:
        yield start, size
        start += size


def _walk(
    step: Callable[[np.ndarray, int, np.ndarray], np.ndarray],
    seed: int,
    epoch: int,
    values: int | np.ndarray,
    n: int,
) -> np.ndarray:
    asked = np.atleast_1d(np.asarray(values, dtype=np.int64))
    if asked.size and (asked.min() < 0 or asked.max() >= n):
        raise IndexError(f"{asked.min()}…{asked.max()} is outside 0…{n - 1}")
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    found = step(asked.astype(np.uint64), half, keys)
    while (outside := found >= n).any():
        found[outside] = step(found[outside], half, keys)
    rows: np.ndarray = found.astype(np.int64).reshape(np.shape(values))
    return rows


def _forward(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) & mask)
    return (left << shift) | right


def _backward(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys[::-1]:
        left, right = right ^ (mix(left + key) & mask), left
    return (left << shift) | right


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    words = np.array([seed & 0xFFFFFFFFFFFFFFFF, epoch & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    start = mix(words[:1] + np.uint64(0x9E3779B97F4A7C15)) ^ words[1:]
    return mix(start + np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every input bit reaches every output bit. Wraps around by intent."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX[1])
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed
