"""Word n-grams of a text as 64-bit hashes, and its lines and paragraphs as ranges of words.

The hash of an n-gram is a polynomial in the hashes of its words (``pipeline.words``), so that it rolls along a text in
constant time. N-grams without a letter (tables, scores, dates) are marked. A range of fewer words than an n-gram has one
hash, of all its words.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import kernel
from pipeline.words import WordBuffers, folds, split_words

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


@kernel
def hash_words(text, start, end, words, hashes, letters):  # type: ignore[no-untyped-def]
    """A hash of each word, and whether it has a character other than a digit."""
    for i in range(words):
        value = np.uint64(0xCBF29CE484222325)
        letter = False
        for at in range(start[i], end[i]):
            byte = text[at]
            value = (value ^ np.uint64(byte)) * np.uint64(0x100000001B3)
            letter = letter or byte < 48 or byte > 57
        value ^= value >> np.uint64(32)
        hashes[i] = value * _MIX
        letters[i] = letter


@kernel
def hash_ngrams(hashes, letters, begin, end, n, out, counts):  # type: ignore[no-untyped-def]
    """Hashes of the n-grams of words ``begin:end``; ``counts`` says which have a letter. Their number."""
    size = end - begin
    if size <= 0:
        return 0
    width = min(n, size)
    power = np.uint64(1)
    for _ in range(width - 1):
        power *= _BASE
    value = np.uint64(0)
    with_letter = 0
    for i in range(size):
        if i >= width:
            value -= hashes[begin + i - width] * power
            with_letter -= letters[begin + i - width]
        value = value * _BASE + hashes[begin + i]
        with_letter += letters[begin + i]
        if i >= width - 1:
            mixed = (value ^ (value >> np.uint64(29))) * _MIX
            # Zero marks an empty slot of the table. A short text's only hash must not equal that of a longer one.
            out[i - width + 1] = (mixed ^ np.uint64(width)) | np.uint64(1)
            counts[i - width + 1] = with_letter > 0
    return size - width + 1


@kernel
def part_starts(data, begin, words, source_start, source_end, newlines, starts):  # type: ignore[no-untyped-def]
    """The first word of each part of a text; how many parts. Between two parts are so many line breaks in white space
    (one: lines; two: paragraphs)."""
    parts = 0
    for i in range(words):
        breaks = newlines if i == 0 else 0
        if i > 0:
            for at in range(begin + source_end[i - 1], begin + source_start[i]):
                if data[at] == 10:
                    breaks += 1
                elif data[at] != 32 and data[at] != 13 and data[at] != 9 and breaks < newlines:
                    breaks = 0
        if breaks >= newlines:
            starts[parts] = i
            parts += 1
    return parts


@kernel
def hash_parts(hashes, letters, bounds, least, keys):  # type: ignore[no-untyped-def]
    """One hash for each range of words ``bounds[p]:bounds[p + 1]`` that has ``least`` words and a letter; zero for others."""
    for p in range(len(bounds) - 1):
        keys[p] = 0
        if bounds[p + 1] - bounds[p] < least:
            continue
        value = np.uint64(0)
        letter = False
        for i in range(bounds[p], bounds[p + 1]):
            value = value * _BASE + hashes[i]
            letter = letter or letters[i] > 0
        if letter:
            keys[p] = ((value ^ (value >> np.uint64(29))) * _MIX) | np.uint64(1)


class Analyzer:
    """The n-grams of single texts, with reused working memory."""

    def __init__(self, n: int, max_characters: int) -> None:
        self.n, self.max_characters = n, max_characters
        self.folds = folds()
        self.reserve(1 << 16)

    def reserve(self, size: int) -> None:
        """Room for texts of ``size`` bytes."""
        self.buffers = WordBuffers.for_bytes(size)
        self.hashes = np.empty(size + 1, np.uint64)
        self.letters = np.empty(size + 1, np.int64)
        self.grams = np.empty(size + 1, np.uint64)
        self.counts = np.empty(size + 1, np.bool_)
        self.starts = np.empty(size + 1, np.int64)
        self.size = size

    def words(self, data: NDArray[np.uint8], begin: int, end: int) -> int:
        """Split and hash the words of one text; their number."""
        if end - begin > self.size:
            self.reserve(end - begin)
        b = self.buffers
        number = int(
            split_words(
                data, begin, end, self.max_characters, self.folds, b.text, b.start, b.end, b.source_start, b.source_end
            )
        )
        hash_words(b.text, b.start, b.end, number, self.hashes, self.letters)
        return number

    def ngrams(self, begin: int, end: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Hashes of the n-grams of words ``begin:end``, and whether each has a letter."""
        size = hash_ngrams(self.hashes, self.letters, begin, end, self.n, self.grams, self.counts)
        return self.grams[:size].copy(), self.counts[:size].copy()

    def parts(self, data: NDArray[np.uint8], begin: int, words: int, newlines: int) -> NDArray[np.int64]:
        """The first word of each line (``newlines`` 1) or paragraph (2), and the number of words."""
        b = self.buffers
        number = part_starts(data, begin, words, b.source_start, b.source_end, newlines, self.starts)
        return np.concatenate([self.starts[:number], [words]])
