"""Repetition inside a document: the measures of Gopher (Rae et al. 2021, table A1).

    duplicate lines, paragraphs      the second and every later occurrence, as a share of all, and their characters
    top 2, 3, 4-gram                 characters of the most frequent word n-gram: its length times its occurrences
    duplicate 5 … 10-grams           characters of word n-grams seen before; overlapping ones are counted once

All are shares; those of characters are of all characters of the text. An n-gram is as long as its words joined by
single spaces. In text without spaces between words an n-gram takes 2 n or 4 n letters (see ``pipeline.quality.text``).
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import kernel
from pipeline.quality.text import IDEOGRAPHS_PER_WORD, LETTERS_PER_WORD, Floats, Ints, TextView, ratio

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0x100000001B3)


def repetition(text: TextView) -> dict[str, Floats]:
    """Every repetition measure, by attribute name."""
    line_count, line_characters = _duplicates(text.line_hash, text.line_length, text.lines_of)
    paragraph_count, paragraph_characters = _duplicates(text.paragraph_hash, text.paragraph_length, text.paragraphs_of)
    scale = np.where(2 * text.unspaced_words > text.words, IDEOGRAPHS_PER_WORD, 1)
    scale[2 * text.unspaced_letters > text.words] = LETTERS_PER_WORD
    sizes = np.array(TOP_NGRAMS + DUPLICATE_NGRAMS)
    repeated = _ngrams(text.word_hash, text.word_length, text.words_of, scale, sizes, len(TOP_NGRAMS))
    names = [f"top_{n}gram_characters" for n in TOP_NGRAMS] + [
        f"duplicate_{n}gram_characters" for n in DUPLICATE_NGRAMS
    ]
    return {
        "duplicate_lines": ratio(line_count, text.lines),
        "duplicate_line_characters": ratio(line_characters, text.characters),
        "duplicate_paragraphs": ratio(paragraph_count, text.paragraphs),
        "duplicate_paragraph_characters": ratio(paragraph_characters, text.characters),
    } | {name: ratio(column, text.characters) for name, column in zip(names, repeated, strict=True)}


def _duplicates(hashes: NDArray[np.uint64], lengths: NDArray[np.int32], starts: Ints) -> tuple[Ints, Ints]:
    """Per document: how many of its items were seen before in it, and their characters."""
    count, characters = _count_duplicates(hashes, lengths, starts)
    return count, characters


@kernel
def _table_bits(items):  # type: ignore[no-untyped-def]
    """The logarithm of the slots of a hash table for so many items, at most half full."""
    bits = 1
    while (1 << bits) < 2 * items:
        bits += 1
    return bits


@kernel
def _count_duplicates(hashes, lengths, starts):  # type: ignore[no-untyped-def]
    documents = len(starts) - 1
    longest = 1
    for document in range(documents):
        longest = max(longest, starts[document + 1] - starts[document])
    bits = _table_bits(longest)
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    keys = np.zeros(1 << bits, np.uint64)
    owner = np.full(1 << bits, -1, np.int64)  # which document wrote a slot: nothing needs clearing between documents
    count = np.zeros(documents, np.int64)
    characters = np.zeros(documents, np.int64)
    for document in range(documents):
        for item in range(starts[document], starts[document + 1]):
            key = hashes[item]
            slot = np.int64((key * _SPREAD) >> shift)
            while owner[slot] == document and keys[slot] != key:
                slot = (slot + 1) & mask
            if owner[slot] == document:
                count[document] += 1
                characters[document] += lengths[item]
            else:
                owner[slot] = document
                keys[slot] = key
    return count, characters


@kernel
def _ngrams(hashes, lengths, starts, scales, sizes, tops):  # type: ignore[no-untyped-def]
    """Characters repeated, one row for each n-gram size (the first ``tops`` rows: the most frequent n-gram's)."""
    documents = len(starts) - 1
    longest = 1
    for document in range(documents):
        longest = max(longest, starts[document + 1] - starts[document])
    slots = 1 << _table_bits(longest)
    keys = np.zeros(slots, np.uint64)
    owner = np.full(slots, -1, np.int64)  # document and pass that wrote a slot
    occurrences = np.zeros(slots, np.int64)
    grams = np.zeros(longest, np.uint64)
    ends = np.zeros(longest + 1, np.int64)
    result = np.zeros((len(sizes), documents), np.int64)

    for document in range(documents):
        first = starts[document]
        words = starts[document + 1] - first
        scale = scales[document]
        bits = _table_bits(words)
        mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
        for word in range(words):
            grams[word] = np.uint64(0)
            ends[word + 1] = ends[word] + lengths[first + word]
        covered = 0  # words that ``grams`` stands for already
        for row in range(len(sizes)):
            n = sizes[row] * scale
            places = words - n + 1
            if places <= 0:
                break
            while covered < n:
                for word in range(places):
                    mixed = (grams[word] ^ hashes[first + word + covered]) * _PRIME
                    grams[word] = mixed ^ (mixed >> np.uint64(29))
                covered += 1
            stamp = document * len(sizes) + row
            spaces = n - 1 if scale == 1 else 0
            most, best, place = 1, 0, 0
            while place < places:
                key = grams[place]
                slot = np.int64((key * _SPREAD) >> shift)
                while owner[slot] == stamp and keys[slot] != key:
                    slot = (slot + 1) & mask
                seen = owner[slot] == stamp
                if not seen:
                    owner[slot] = stamp
                    keys[slot] = key
                    occurrences[slot] = 1
                elif row < tops:
                    occurrences[slot] += 1
                    total = occurrences[slot] * (ends[place + n] - ends[place] + spaces)
                    if occurrences[slot] > most or (occurrences[slot] == most and total > best):
                        most, best = occurrences[slot], total
                else:
                    result[row, document] += ends[place + n] - ends[place] + spaces
                    place += n - 1  # the words of a repeated n-gram are counted once
                place += 1
            if row < tops:
                result[row, document] = best
    return result
