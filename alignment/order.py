"""Which examples a step takes: a pure function of (seed, step), the same for any number of ranks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from what it is for: (seed, stage, step, chunk) never collides with a neighbour's seed + 1."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def step_indices(number: int, batch: int, seed: int, step: int, examples: int | None = None) -> np.ndarray:
    """The ``batch`` examples of one step: each epoch is a fresh permutation, and steps run across its end.

    Of ``examples`` in all the last step takes what is left; steps behind it, where a rollback went around some data, are
    whole again.
    """
    start = step * batch
    stop = start + batch if examples is None or start >= examples else min(start + batch, examples)
    epochs = range(start // number, (stop - 1) // number + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(number) for epoch in epochs])
    offset = start - epochs.start * number
    return order[offset : offset + stop - start]


@dataclass(frozen=True)
class Part:
    """The examples of one micro batch. One that is ``idle`` counts for nothing: its rank only keeps step."""

    indices: np.ndarray
    idle: bool = False


@dataclass(frozen=True)
class Order:
    """Passes over ``number`` examples in batches: every example as often as ``epochs`` says, the last batch included.

    With ``lengths`` examples of like length go together, which halves the padding; ranks then also get like work.
    """

    number: int
    batch: int
    epochs: float
    seed: int
    max_steps: int | None = None
    lengths: np.ndarray | None = None

    @property
    def examples(self) -> int:
        # Whole passes stay whole whatever the last digit of the product.
        return max(1, ceil(self.number * self.epochs - 1e-6))

    @property
    def steps(self) -> int:
        """Optimizer steps: as many as all examples need, the last batch holding what is left, or ``max_steps``."""
        steps = ceil(self.examples / self.batch)
        return min(steps, self.max_steps) if self.max_steps else steps

    def indices(self, step: int) -> np.ndarray:
        """The examples of a step."""
        return step_indices(self.number, self.batch, self.seed, step, self.examples)

    def parts(self, step: int, size: int, number: int, shares: int, least: int = 1) -> list[Part]:
        """The n-th of so many shares of a step in micro batches of ``size``: of each as many, and ``least`` or more."""
        indices = self.indices(step)
        if self.lengths is not None:
            indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        mine = indices[number::shares]
        parts = [Part(mine[start : start + size]) for start in range(0, len(mine), size)]
        needed = max(least, ceil(ceil(len(indices) / shares) / size))
        return parts + [Part(indices[:1], idle=True)] * (needed - len(parts))


def chunks(number: int, size: int) -> Iterator[tuple[int, range]]:
    """Consecutive chunks with their numbers: the unit of generation, whatever the ranks."""
    for chunk, start in enumerate(range(0, number, size)):
        yield chunk, range(start, min(number, start + size))


def share(items: Sequence[tuple[int, range]], number: int, shares: int) -> list[tuple[int, range]]:
    return list(items[number::shares])
