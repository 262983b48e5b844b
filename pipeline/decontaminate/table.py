"""A table of n-grams: an open hash table in two arrays, and looking whole texts up in it."""

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import kernel
from pipeline.ngrams import Analyzer, hash_ngrams, hash_words, part_starts
from pipeline.words import split_words

ABSENT, IGNORED = -1, -2
"""What a lookup gives for n-grams that are in no item, and for those that do not count."""


@kernel
def fill_table(keys, values, table_keys, table_values):  # type: ignore[no-untyped-def]
    """Enter keys with their values into an open table, a power of two of slots, zero where empty."""
    mask = np.uint64(len(table_keys) - 1)
    for i in range(len(keys)):
        slot = (keys[i] >> np.uint64(1)) & mask
        while table_keys[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        table_keys[slot] = keys[i]
        table_values[slot] = values[i]


@kernel
def look_up(keys, size, table_keys, table_values, found):  # type: ignore[no-untyped-def]
    """The value of each key, ``ABSENT`` if it has none; how many have one that counts."""
    mask = np.uint64(len(table_keys) - 1)
    hits = 0
    for i in range(size):
        slot = (keys[i] >> np.uint64(1)) & mask
        found[i] = -1
        while table_keys[slot] != 0:
            if table_keys[slot] == keys[i]:
                found[i] = table_values[slot]
                hits += found[i] >= 0
                break
            slot = (slot + np.uint64(1)) & mask
    return hits


@kernel
def count_hits(  # type: ignore[no-untyped-def]
    data, offsets, n, max_characters, folds, text, start, end, source_start, source_end,
    hashes, letters, grams, counts, found, starts, table_keys, table_values, hits,
):  # fmt: skip
    """For each text the number of its n-grams, and of its short paragraphs, that are in the table."""
    for document in range(len(offsets) - 1):
        words = split_words(
            data, offsets[document], offsets[document + 1], max_characters, folds, text, start, end, source_start, source_end
        )  # fmt: skip
        hash_words(text, start, end, words, hashes, letters)
        size = hash_ngrams(hashes, letters, 0, words, n, grams, counts)
        total = look_up(grams, size, table_keys, table_values, found)
        paragraphs = part_starts(data, offsets[document], words, source_start, source_end, 2, starts)
        for p in range(paragraphs):
            stop = starts[p + 1] if p + 1 < paragraphs else words
            if stop - starts[p] < n and words > stop - starts[p]:
                size = hash_ngrams(hashes, letters, starts[p], stop, n, grams, counts)
                total += look_up(grams, size, table_keys, table_values, found)
        hits[document] = total


def hits(
    analyzer: Analyzer,
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    keys: NDArray[np.uint64],
    values: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many n-grams of each text are in the table: almost all texts have none and need no closer look."""
    longest = int(np.diff(offsets).max(initial=0))
    if longest > analyzer.size:
        analyzer.reserve(longest)
    a, b = analyzer, analyzer.buffers
    found = np.empty(a.size + 1, np.int64)
    numbers = np.zeros(len(offsets) - 1, np.int64)
    count_hits(
        data, offsets, a.n, a.max_characters, a.folds, b.text, b.start, b.end, b.source_start, b.source_end,
        a.hashes, a.letters, a.grams, a.counts, found, a.starts, keys, values, numbers,
    )  # fmt: skip
    return numbers
