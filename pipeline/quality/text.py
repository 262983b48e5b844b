"""Words, lines and paragraphs of many documents, found once and shared by every rule.

A ``TextView`` holds a batch of documents as columns: one array entry a word, a line, a paragraph or a document. A rule
is then a line or two of NumPy over a whole batch, and never looks at the text again.

    token       a run of characters without white space
    word        a token without the punctuation around it; a token of symbols alone is no word
    unspaced    scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan): every letter with its
                marks is a word of its own, so that repetition is found wherever it starts; ``estimated_words`` counts
                two of them as one word, four in all but Han and kana, which comes near to what segmenters count
    line        text between newlines, without the white space around it; empty lines are not lines
    paragraph   lines up to an empty line

Words are compared by a 64-bit hash of their lower-cased characters, lines and paragraphs by a hash of their exact
characters. All sums over a document are sums of integers: no value depends on which documents share a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.quality.characters import TABLE_SIZE, character_tables
from pipeline.quality.scanner import HASH_PRIME, HASH_START, scan
from pipeline.words import text_buffers

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

IDEOGRAPHS_PER_WORD = 2
LETTERS_PER_WORD = 4
"""Of unspaced scripts, marks not counted. The Universal Declaration of Human Rights has 221 words a piece in English, and
by these numbers 166 in Chinese, 250 in Japanese, 239 in Thai, 201 in Khmer, 246 in Lao, 205 in Burmese and Tibetan."""


@dataclass(frozen=True)
class TextView:
    """A batch of documents, scanned. ``*_of`` arrays hold one entry more than documents: where each one's part begins."""

    documents: int
    words_of: Ints
    lines_of: Ints
    paragraphs_of: Ints

    characters: Ints
    """Code points of each document."""
    newlines: Ints
    symbol_tokens: Ints
    """Tokens without a letter or digit."""
    hash_signs: Ints
    ellipses: Ints
    """``...`` or ``…``, anywhere in the text."""
    word_characters: Ints
    """Letters and digits of each document."""
    unspaced_letters: Ints
    """Letters of unspaced scripts other than Han and kana."""
    unmarked_letters: Ints
    """Letters of scripts without marks at the end of a sentence (Thai, Lao)."""
    syllabic_letters: Ints
    """Letters of spaced scripts that stand for a syllable or take their vowels as marks (Hangul, Indic, Ethiopic)."""

    word_hash: NDArray[np.uint64]
    word_length: NDArray[np.int32]
    word_has_letter: Flags
    word_unspaced: Flags
    word_line: NDArray[np.int32]
    """Index of the line a word stands in."""

    line_hash: NDArray[np.uint64]
    line_length: NDArray[np.int32]
    line_width: NDArray[np.int32]
    """Characters of the line with the white space around it."""
    line_first: NDArray[np.uint32]
    line_last: NDArray[np.uint32]
    """Code points of the first and the last character."""
    line_ellipsis: Flags
    """Ends in ``...`` or ``…``."""
    line_letters: NDArray[np.int32]
    line_uppers: NDArray[np.int32]
    line_digits: NDArray[np.int32]
    line_sentences: NDArray[np.int32]
    line_braces: NDArray[np.int32]
    """``{`` in the line."""

    paragraph_hash: NDArray[np.uint64]
    paragraph_length: NDArray[np.int32]

    def sum_words(self, values: NDArray[np.generic]) -> Ints:
        """Per document, the sum of integer (or true) values of its words."""
        return _sums(values, self.words_of)

    def sum_lines(self, values: NDArray[np.generic]) -> Ints:
        return _sums(values, self.lines_of)

    @cached_property
    def words(self) -> Ints:
        return np.diff(self.words_of)

    @cached_property
    def lines(self) -> Ints:
        return np.diff(self.lines_of)

    @cached_property
    def paragraphs(self) -> Ints:
        return np.diff(self.paragraphs_of)

    @cached_property
    def tokens(self) -> Ints:
        """Words and tokens of symbols."""
        return self.words + self.symbol_tokens

    @cached_property
    def unspaced_words(self) -> Ints:
        return self.sum_words(self.word_unspaced)

    @cached_property
    def ideographs(self) -> Ints:
        """Words that are a letter of Han or kana."""
        return self.unspaced_words - self.unspaced_letters

    @cached_property
    def estimated_words(self) -> Ints:
        spaced = self.words - self.unspaced_words
        return spaced - -self.ideographs // IDEOGRAPHS_PER_WORD - -self.unspaced_letters // LETTERS_PER_WORD

    @cached_property
    def unmarked(self) -> Flags:
        """Documents in which the end of a sentence has no mark."""
        return 2 * self.unmarked_letters > self.words

    @cached_property
    def line_words(self) -> Ints:
        return np.bincount(self.word_line, minlength=len(self.line_hash)).astype(np.int64)

    def words_in(self, vocabulary: Sequence[str]) -> Flags:
        """Which words are one of these (in any case)."""
        return np.isin(self.word_hash, np.array([word_hash(word) for word in vocabulary], np.uint64))

    def lines_with_phrase(self, phrase: str) -> Flags:
        """Which lines contain these words one after the other (in any case)."""
        hashes = [np.uint64(word_hash(word)) for word in phrase.split()]
        places = len(self.word_hash) - len(hashes) + 1
        found = np.zeros(len(self.line_hash), np.bool_)
        if places <= 0:
            return found
        candidates = np.flatnonzero(self.word_hash[:places] == hashes[0])
        for step, value in enumerate(hashes[1:], start=1):
            candidates = candidates[self.word_hash[candidates + step] == value]
        candidates = candidates[self.word_line[candidates] == self.word_line[candidates + len(hashes) - 1]]
        found[self.word_line[candidates]] = True
        return found


def ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """``part / whole``, and 0 where there is nothing to divide by."""
    result: Floats = np.zeros(len(whole), np.float64)
    np.divide(part, whole, out=result, where=np.asarray(whole != 0))
    return result


def _sums(values: NDArray[np.generic], starts: Ints) -> Ints:
    running = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, dtype=np.int64, out=running[1:])
    return running[starts[1:]] - running[starts[:-1]]


def view_texts(texts: Sequence[str] | pa.Array) -> TextView:
    """Scan a batch of texts (Python strings, or an Arrow string column, which is read in place)."""
    data, offsets = text_buffers(texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string()))
    tables = character_tables()
    starts, counts, words, lines, paragraphs = scan(data, offsets, tables.classes, tables.lower)
    word_hash, (word_length, word_line), (word_has_letter, word_unspaced) = words
    line_hash, (line_length, line_width, letters, uppers, digits, sentences, braces), (first, last), ellipsis = lines
    columns = [
        *starts, *counts,
        word_hash, word_length, word_has_letter, word_unspaced, word_line,
        line_hash, line_length, line_width, first, last, ellipsis, letters, uppers, digits, sentences, braces,
        *paragraphs,
    ]  # fmt: skip
    return TextView(len(texts), *columns)


def word_hash(word: str) -> int:
    """The hash the scanner gives to a word."""
    lower = character_tables().lower
    value = HASH_START
    for character in word:
        code = ord(character)
        value = ((value ^ (int(lower[code]) if code < TABLE_SIZE else code)) * HASH_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value
