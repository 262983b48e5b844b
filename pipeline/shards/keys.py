"""The numbers that decide a document's way, made of its id alone.

* ``held``: documents whose number lies below a bound are held out. It does not know the seed, so the same documents
  stay held out when the shuffle or the mixture changes.
* ``key``: the document's place on a ring of 64 bits, which is the global shuffle. A bucket is an arc of the ring. The
  k-th repetition of a document stands at ``key + k · STRIDE``: the golden ratio spreads repetitions as far apart as
  can be, and a bucket's repetitions are still one arc of the same sorted file.
* ``choice``: decides whether the fractional part of its source's rate takes the document once more.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

RING = 1 << 64
STRIDE = 0x9E3779B97F4A7C15


def held_numbers(documents: Sequence[bytes]) -> np.ndarray:
    """``held`` of some documents."""
    digests = b"".join(hashlib.blake2b(entry, digest_size=8, person=b"validation").digest() for entry in documents)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def held_bound(fraction: float) -> int:
    """The bound that holds out this share of the documents."""
    return int(fraction * RING)


def ring_keys(documents: Sequence[bytes], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``key`` and ``choice`` of some documents."""
    salt = (seed % RING).to_bytes(8, "big")
    digests = b"".join(
        hashlib.blake2b(entry, digest_size=16, salt=salt, person=b"shuffle").digest() for entry in documents
    )
    numbers = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def copies(choice: np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """How often each document is taken at ``rate``, which is one for all or each document's own."""
    whole = np.floor(rate)
    # Compared in doubles: the last bits of a 64-bit number do not matter to a fraction.
    once_more = choice.astype(np.float64) < (rate - whole) * float(RING)
    return np.int64(whole) + once_more.astype(np.int64)


def arc(bucket: int, buckets: int, copy: int) -> list[tuple[int, int]]:
    """The ranges [low, high) of ``key`` whose ``copy``-th repetition falls into a bucket: one, or two at the seam."""
    low = (bucket * RING // buckets - copy * STRIDE) % RING
    width = (bucket + 1) * RING // buckets - bucket * RING // buckets
    high = low + width
    return [(low, high)] if high <= RING else [(low, RING), (0, high - RING)]
