"""Words as deduplication and decontamination see them.

A text becomes a sequence of normalised words: case, punctuation, accents and the width of letters are ignored, runs of
letters and digits form a word. In scripts written without spaces (Han, Kana, Thai, Lao, Khmer, Burmese) every character
is a word of its own, so that a word n-gram there is a character n-gram. The normalised words, joined by single spaces,
are what every hash is taken of: two systems that agree on this module agree on every shingle.

The work is done by one kernel on UTF-8 bytes (an Arrow buffer, never copied into Python strings). ``folds()`` is its
table: for every code point ``SEPARATOR``, ``IGNORED`` (combining accents) or the code point it is folded to, with the
bit ``ALONE`` for characters that are words by themselves.
"""

import functools
import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.kernels import code_point, kernel

NORMALISATION_VERSION = 1
"""Raised whenever the same text would give other words: persisted indexes of another version are refused."""

SEPARATOR = 0
IGNORED = 1
ALONE = 1 << 31
_TABLE_SIZE = 0x20000
_LAST_IDEOGRAPH = 0x323AF
_MASK = ALONE - 1
_ZERO, _ONE, _TWO, _THREE, _FOUR = (np.uint64(number) for number in range(5))

_ALONE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3041, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)
_IGNORED_RANGES = (
    (0x00AD, 0x00AD),  # soft hyphen
    (0x0300, 0x036F),  # combining accents
    (0x0591, 0x05BD),  # Hebrew points
    (0x064B, 0x065F),  # Arabic vowel signs
    (0x200B, 0x200D),  # zero-width space and joiners
    (0xFE00, 0xFE0F),  # variation selectors
)


def _fold(point: int) -> int:
    """What becomes of a code point outside the special ranges."""
    character = chr(point)
    if not character.isalnum() and unicodedata.category(character) not in ("Mn", "Mc"):
        return SEPARATOR
    if unicodedata.decomposition(character):
        parts = unicodedata.normalize("NFKD", character)
        plain = "".join(part for part in parts if not 0x0300 <= ord(part) <= 0x036F)
        character = plain if len(plain) == 1 else character
    lower = character.lower()
    return ord(lower) if len(lower) == 1 else ord(character)


@functools.cache
def folds() -> NDArray[np.uint32]:
    """The kernel's table, made once for each process from the interpreter's Unicode data."""
    table = np.array([_fold(point) for point in range(_TABLE_SIZE)], dtype=np.uint32)
    alone = np.zeros(_TABLE_SIZE, np.bool_)
    for low, high in _ALONE_RANGES:
        alone[low : high + 1] = True
    # Compatibility ideographs fold to ideographs beyond the table: those stand alone too, as the kernel has it.
    stands_alone = (table >= _TABLE_SIZE) | alone[np.minimum(table, _TABLE_SIZE - 1)]
    table[stands_alone & (table != SEPARATOR)] |= np.uint32(ALONE)
    for low, high in _IGNORED_RANGES:
        table[low : high + 1] = IGNORED
    return table


@dataclass
class WordBuffers:
    """Working memory of the kernel, grown to the longest text seen.

    ``text`` holds the normalised words joined by spaces; word ``i`` is ``text[start[i]:end[i]]`` and came from the bytes
    ``source_start[i]:source_end[i]`` of the original.
    """

    text: NDArray[np.uint8]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    source_start: NDArray[np.int64]
    source_end: NDArray[np.int64]

    @classmethod
    def for_bytes(cls, size: int) -> "WordBuffers":
        words = size + 1
        return cls(
            np.empty(2 * size + 8, np.uint8),
            np.empty(words, np.int64),
            np.empty(words, np.int64),
            np.empty(words, np.int64),
            np.empty(words, np.int64),
        )


@kernel
def _append(text, size, point):  # type: ignore[no-untyped-def]
    """Write a code point above ASCII as UTF-8; the new size."""
    low = np.uint8(0x80 | (point & np.uint32(0x3F)))
    middle = np.uint8(0x80 | ((point >> np.uint32(6)) & np.uint32(0x3F)))
    high = np.uint8(0x80 | ((point >> np.uint32(12)) & np.uint32(0x3F)))
    if point < 0x800:
        text[size] = 0xC0 | (point >> np.uint32(6))
        text[size + _ONE] = low
        return size + _TWO
    if point < 0x10000:
        text[size] = 0xE0 | (point >> np.uint32(12))
        text[size + _ONE] = middle
        text[size + _TWO] = low
        return size + _THREE
    text[size] = 0xF0 | (point >> np.uint32(18))
    text[size + _ONE] = high
    text[size + _TWO] = middle
    text[size + _THREE] = low
    return size + _FOUR


@kernel
def _begin_word(text, size, words, at, start, source_start):  # type: ignore[no-untyped-def]
    """A space, unless it is the first word; the new size."""
    text[size] = 32
    size += np.uint64(size > _ZERO)
    start[words] = size
    source_start[words] = at
    return size


@kernel
def _end_word(size, words, at, end, source_end):  # type: ignore[no-untyped-def]
    """The new number of words."""
    end[words] = size
    source_end[words] = at
    return words + _ONE


@kernel
def _folded(point, folds):  # type: ignore[no-untyped-def]
    if point < _TABLE_SIZE:
        return folds[point]
    return np.uint32(point | np.uint32(ALONE)) if point <= _LAST_IDEOGRAPH else np.uint32(SEPARATOR)


@kernel
def split_words(data, begin, stop, max_characters, folds, text, start, end, source_start, source_end):  # type: ignore[no-untyped-def]
    """Normalise ``data[begin:stop]`` (valid UTF-8) into the buffers; the number of words.

    Reads at most ``max_characters`` characters. Source positions are relative to ``begin``. All positions are unsigned:
    signed ones would make numba test every access for a negative index.
    """
    begin = np.uint64(begin)
    stop = np.uint64(stop)
    left = np.uint64(max_characters)
    words = np.uint64(0)
    size = np.uint64(0)
    inside = False
    position = begin
    while position < stop and left > _ZERO:
        left -= _ONE
        here = position
        lead = np.uint32(data[position])
        if lead < 0x80:
            position += _ONE
            fold = folds[lead]
            if fold > IGNORED:  # an ASCII letter or digit: by far the most frequent case
                if not inside:
                    size = _begin_word(text, size, words, here - begin, start, source_start)
                    inside = True
                text[size] = fold
                size += _ONE
                continue
        else:
            point, position = code_point(data, position)
            fold = _folded(point, folds)
        if fold == IGNORED:
            continue
        alone = fold >= ALONE
        if inside and (fold == SEPARATOR or alone):
            words = _end_word(size, words, here - begin, end, source_end)
            inside = False
        if fold == SEPARATOR:
            continue
        if not inside:
            size = _begin_word(text, size, words, here - begin, start, source_start)
            inside = True
        folded = np.uint32(fold & np.uint32(_MASK))
        if folded < 0x80:
            text[size] = folded
            size += _ONE
        else:
            size = _append(text, size, folded)
        if alone:
            words = _end_word(size, words, position - begin, end, source_end)
            inside = False
    if inside:
        words = _end_word(size, words, position - begin, end, source_end)
    return np.int64(words)


def text_buffers(column: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes of a column of texts and where each text begins, without copying."""
    column = column.cast(pa.large_string())
    if len(column) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = column.buffers()
    begins = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8) if data and data.size else np.empty(0, np.uint8), begins


def normalised_words(text: str) -> list[str]:
    """The normalised words of one text: for explanations and tests; stages call the kernel on whole batches."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    buffers = WordBuffers.for_bytes(len(data))
    number = split_words(
        data,
        0,
        len(data),
        len(data),
        folds(),
        buffers.text,
        buffers.start,
        buffers.end,
        buffers.source_start,
        buffers.source_end,
    )
    return [bytes(buffers.text[buffers.start[i] : buffers.end[i]]).decode() for i in range(number)]
