"""MinHash signatures, identical to datasketch 2.0's ``affine32`` scheme, and LSH bands.

A shingle hash ``s`` is mixed once, ``h = fmix32(s)`` (MurmurHash3's finaliser); permutation ``k`` maps it to
``a[k] * h + b[k] mod 2**32``; the signature holds the minimum of each permutation over the document's shingles. The
coefficients are drawn as ``datasketch.MinHash(num_perm, seed)`` draws them, so that
``datasketch.MinHash(seed=…, hashvalues=signature, scheme="affine32")`` compares with any MinHash made there of the same
shingles with ``hashfunc=xxhash.xxh32_intdigest``.

A signature is cut into ``bands`` of ``rows`` values; two documents are nominated as near duplicates if they agree in all
rows of a band, which at Jaccard similarity ``s`` happens with probability ``1 - (1 - s**rows)**bands``.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import kernel


def permutations(number: int, seed: int) -> NDArray[np.uint32]:
    """Coefficients ``[a, b]`` of shape (2, number), drawn in datasketch's order."""
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, number, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = generator.randint(0, 1 << 32, number, dtype=np.uint32)
    return np.array([a, b], dtype=np.uint32)


@kernel
def sign(shingles, counts, a, b, mixed, signatures):  # type: ignore[no-untyped-def]
    """Signatures of documents whose shingle hashes lie one after another. No shingles: all ones, as in datasketch.

    ``mixed`` is working memory for ``padded(largest count)`` values. A document's values are repeated up to a multiple
    of 64, which changes no minimum: the compiler's loop over whole vectors then has no remainder, which takes as long
    as the rest for texts of a few hundred words.
    """
    begin = np.uint64(0)
    for document in range(len(counts)):
        size = np.uint64(counts[document])
        for i in range(size):
            h = shingles[begin + i]
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            mixed[i] = h ^ (h >> np.uint32(16))
        whole = (size + np.uint64(63)) & ~np.uint64(63)
        for i in range(size, whole):
            mixed[i] = mixed[0]
        for k in range(len(a)):
            ak = a[k]
            bk = b[k]
            lowest = np.uint32(0xFFFFFFFF)
            for i in range(whole):
                lowest = min(lowest, np.uint32(np.uint32(ak * mixed[i]) + bk))
            signatures[document, k] = lowest
        begin += size


def padded(count: int) -> int:
    """The room ``sign`` needs for a document of so many shingles."""
    return (count + 63) // 64 * 64


@kernel
def band_keys(signatures, groups, rows, keys):  # type: ignore[no-untyped-def]
    """One 64-bit key for each document and band. Equal keys: same group, same band, same rows (up to 2**-64)."""
    for document in range(signatures.shape[0]):
        for band in range(keys.shape[1]):
            key = groups[document] ^ (np.uint64(band + 1) * np.uint64(0x9E3779B97F4A7C15))
            for row in range(rows):
                key = (key ^ np.uint64(signatures[document, band * rows + row])) * np.uint64(0xFF51AFD7ED558CCD)
                key ^= key >> np.uint64(32)
            keys[document, band] = key


def catch_probability(similarity: float, bands: int, rows: int) -> float:
    """The probability that two documents of this Jaccard similarity are nominated."""
    return float(1.0 - (1.0 - similarity**rows) ** bands)
