"""Shingles: word n-grams, hashed.

A shingle is ``n`` consecutive normalised words joined by spaces (``pipeline.words``); a text with fewer words is one
shingle. Its hash is XXH32 (seed 0) of its UTF-8 bytes, so that anyone can compute it with a stock library. A document is
the set of its shingles' hashes, in order of first appearance; that set is what MinHash samples and what verification
compares.
"""

import numpy as np

from pipeline.kernels import kernel
from pipeline.words import split_words

_P1, _P2, _P3, _P4, _P5 = (np.uint32(p) for p in (2654435761, 2246822519, 3266489917, 668265263, 374761393))

_ONE, _TWO, _THREE, _FOUR, _EIGHT, _TWELVE, _SIXTEEN = (np.uint64(n) for n in (1, 2, 3, 4, 8, 12, 16))


@kernel
def _rotate(value, bits):  # type: ignore[no-untyped-def]
    return np.uint32((value << np.uint32(bits)) | (value >> np.uint32(32 - bits)))


@kernel
def _word(data, at):  # type: ignore[no-untyped-def]
    return np.uint32(
        np.uint32(data[at])
        | (np.uint32(data[at + _ONE]) << np.uint32(8))
        | (np.uint32(data[at + _TWO]) << np.uint32(16))
        | (np.uint32(data[at + _THREE]) << np.uint32(24))
    )


@kernel
def xxh32(data, begin, stop):  # type: ignore[no-untyped-def]
    """XXH32 with seed 0 of ``data[begin:stop]``."""
    at = np.uint64(begin)
    stop = np.uint64(stop)
    size = stop - at
    if size >= _SIXTEEN:
        a = np.uint32(_P1 + _P2)
        b = _P2
        c = np.uint32(0)
        d = np.uint32(np.uint32(0) - _P1)
        while at + _SIXTEEN <= stop:
            a = np.uint32(_rotate(np.uint32(a + np.uint32(_word(data, at) * _P2)), 13) * _P1)
            b = np.uint32(_rotate(np.uint32(b + np.uint32(_word(data, at + _FOUR) * _P2)), 13) * _P1)
            c = np.uint32(_rotate(np.uint32(c + np.uint32(_word(data, at + _EIGHT) * _P2)), 13) * _P1)
            d = np.uint32(_rotate(np.uint32(d + np.uint32(_word(data, at + _TWELVE) * _P2)), 13) * _P1)
            at += _SIXTEEN
        value = np.uint32(_rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18))
    else:
        value = _P5
    value = np.uint32(value + np.uint32(size))
    while at + _FOUR <= stop:
        value = np.uint32(_rotate(np.uint32(value + np.uint32(_word(data, at) * _P3)), 17) * _P4)
        at += _FOUR
    while at < stop:
        value = np.uint32(_rotate(np.uint32(value + np.uint32(np.uint32(data[at]) * _P5)), 11) * _P1)
        at += _ONE
    value = np.uint32((value ^ (value >> np.uint32(15))) * _P2)
    value = np.uint32((value ^ (value >> np.uint32(13))) * _P3)
    return np.uint32(value ^ (value >> np.uint32(16)))


@kernel
def distinct(hashes, size, table, out):  # type: ignore[no-untyped-def]
    """Copy the distinct values of ``hashes[:size]`` to ``out`` in order of first appearance; their number.

    ``table`` is working memory: a power of two of at least twice ``size`` slots, any content.
    """
    slots = 16
    while slots < 2 * size:
        slots *= 2
    mask = np.uint32(slots - 1)
    table[:slots] = 0
    found = 0
    for i in range(size):
        value = hashes[i]
        entry = np.uint64(value) | np.uint64(1 << 32)
        slot = np.uint32(value ^ (value >> np.uint32(16))) & mask
        while table[slot] != 0 and table[slot] != entry:
            slot = (slot + np.uint32(1)) & mask
        if table[slot] == 0:
            table[slot] = entry
            out[found] = value
            found += 1
    return found


@kernel
def shingle_texts(  # type: ignore[no-untyped-def]
    data, offsets, n, max_characters, folds, text, start, end, source_start, source_end, raw, table, out, counts
):
    """The distinct shingle hashes of every text ``data[offsets[i]:offsets[i + 1]]``, one after another in ``out``.

    ``counts[i]`` is the number for text ``i``; returns their sum. ``out`` has room for one hash a byte.
    """
    filled = 0
    for document in range(len(offsets) - 1):
        words = split_words(
            data,
            offsets[document],
            offsets[document + 1],
            max_characters,
            folds,
            text,
            start,
            end,
            source_start,
            source_end,
        )
        grams = 0
        if words > 0:
            grams = max(1, words - n + 1)
            for i in range(grams):
                raw[i] = xxh32(text, start[i], end[min(i + n, words) - 1])
        found = distinct(raw, grams, table, out[filled:])
        counts[document] = found
        filled += found
    return filled
