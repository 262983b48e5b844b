"""Which examples a step takes: a pure function of (seed, step), the same for any number of ranks."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from infra.errors import ConfigError


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from what it is for: (seed, stage, step, chunk) never collides with a neighbour's seed + 1."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def step_indices(number: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The ``batch`` examples of one step: each epoch is a fresh permutation, and steps run across its end."""
    start = step * batch
    epochs = range(start // number, (start + batch - 1) // number + 1)
    order = np.concatenate([np.random.default_rng([seed, epoch]).permutation(number) for epoch in epochs])
    offset = start - epochs.start * number
    return order[offset : offset + batch]


def steps_for(number: int, batch: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps for so many passes over the data, at least one."""
    steps = max(1, round(number * epochs / batch))
    return min(steps, max_steps) if max_steps else steps


def micro_batches(
    indices: np.ndarray, size: int, rank: int, world_size: int, lengths: np.ndarray | None = None
) -> list[np.ndarray]:
    """A rank's share of a step, cut into micro batches. All ranks get the same number of them.

    With ``lengths`` examples of like length go together, which halves the padding; ranks then also get like work.
    """
    if len(indices) % world_size:
        raise ConfigError(
            f"a batch of {len(indices)} cannot be shared by {world_size} ranks",
            where="batch_size",
            remedy=f"Choose a multiple of {world_size}.",
        )
    if lengths is not None:
        indices = indices[np.argsort(lengths[indices], kind="stable")]
    mine = indices[rank::world_size]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def chunks(number: int, size: int) -> Iterator[tuple[int, range]]:
    """Consecutive chunks with their numbers: the unit of generation, whatever the ranks."""
    for chunk, start in enumerate(range(0, number, size)):
        yield chunk, range(start, min(number, start + size))


def share(items: Sequence[tuple[int, range]], rank: int, world_size: int) -> list[tuple[int, range]]:
    return list(items[rank::world_size])
