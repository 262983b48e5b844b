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

from pipeline.kernels import kernel
from pipeline.quality.characters import (
    CLOSING,
    DIGIT,
    LETTER,
    MARK,
    SENTENCE_END,
    SPACE,
    TABLE_SIZE,
    UNSPACED,
    UPPER,
    character_tables,
)

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

HASH_START = 0xCBF29CE484222325
HASH_PRIME = 0x100000001B3
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
    column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    if column.type != pa.large_string():
        column = column.cast(pa.large_string())
    _, offsets_buffer, data_buffer = column.buffers()
    count = len(column)
    if count == 0:
        offsets = np.zeros(1, np.int64)
    else:
        offsets = np.frombuffer(offsets_buffer, np.int64)[column.offset : column.offset + count + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
    tables = character_tables()
    per_document, words, lines, paragraphs = _scan(data, offsets, tables.classes, tables.lower)
    return TextView(count, *per_document, *words, *lines, *paragraphs)


def word_hash(word: str) -> int:
    """The hash the scanner gives to a word."""
    lower = character_tables().lower
    value = HASH_START
    for character in word:
        code = ord(character)
        value = ((value ^ (int(lower[code]) if code < TABLE_SIZE else code)) * HASH_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


@kernel
def _scan(data, offsets, classes, lower):  # type: ignore[no-untyped-def]  # compiled: types come from the call
    """One pass over the UTF-8 bytes of all documents.

    Everything the compiled code needs is in this file: Numba's cache does not notice changes in other files.
    Valid UTF-8 is assumed (Arrow strings are). uint64 must never meet int64: NumPy's rules would make it a float.
    """
    start_hash = np.uint64(HASH_START)
    prime = np.uint64(HASH_PRIME)
    documents = len(offsets) - 1
    size = offsets[documents] - offsets[0]
    room = size // 2 + documents + 2  # a word or a line needs at least one character and something to end it

    words_of = np.zeros(documents + 1, np.int64)
    lines_of = np.zeros(documents + 1, np.int64)
    paragraphs_of = np.zeros(documents + 1, np.int64)
    characters = np.zeros(documents, np.int64)
    newlines = np.zeros(documents, np.int64)
    symbol_tokens = np.zeros(documents, np.int64)
    hash_signs = np.zeros(documents, np.int64)
    ellipses = np.zeros(documents, np.int64)
    word_characters = np.zeros(documents, np.int64)
    unspaced_letters = np.zeros(documents, np.int64)
    unmarked_letters = np.zeros(documents, np.int64)
    syllabic_letters = np.zeros(documents, np.int64)

    word_hashes = np.empty(room, np.uint64)
    word_length = np.empty(room, np.int32)
    word_has_letter = np.empty(room, np.bool_)
    word_unspaced = np.empty(room, np.bool_)
    word_line = np.empty(room, np.int32)

    line_hash = np.empty(room, np.uint64)
    line_length = np.empty(room, np.int32)
    line_width = np.empty(room, np.int32)
    line_first = np.empty(room, np.uint32)
    line_last = np.empty(room, np.uint32)
    line_ellipsis = np.empty(room, np.bool_)
    line_letters = np.empty(room, np.int32)
    line_uppers = np.empty(room, np.int32)
    line_digits = np.empty(room, np.int32)
    line_sentences = np.empty(room, np.int32)
    line_braces = np.empty(room, np.int32)

    paragraph_hash = np.empty(room, np.uint64)
    paragraph_length = np.empty(room, np.int32)

    word = 0
    line = 0
    paragraph = 0
    for document in range(documents):
        position = offsets[document]
        end = offsets[document + 1]
        count = 0
        alphanumerics = 0
        dots = 0

        # the token and word being read; hash and length as they were after its last letter or digit
        in_token = False
        token_has_word = False
        in_word = False
        running = start_hash
        running_length = 0
        hash_at_end = start_hash
        length_at_end = 0
        has_letter = False
        unspaced = False

        # the line being read
        width = 0
        length = 0
        first_at = 0
        content_hash = start_hash
        content_hash_at_end = start_hash
        first = np.uint32(0)
        last = np.uint32(0)
        ends_in_ellipsis = False
        letters = 0
        uppers = 0
        digits = 0
        sentences = 0
        braces = 0
        sentence_words = False
        sentence_open = False  # a sentence's end was seen; white space or the line's end closes it

        in_paragraph = False
        block_hash = start_hash
        block_length = 0

        while position <= end:
            at_end = position == end
            if at_end:
                code = np.uint32(10)  # the end of the text ends its last line too
                position += 1
            else:
                byte = data[position]
                if byte < 0x80:
                    code = np.uint32(byte)
                    position += 1
                elif byte < 0xE0:
                    code = (np.uint32(byte & 0x1F) << np.uint32(6)) | np.uint32(data[position + 1] & 0x3F)
                    position += 2
                elif byte < 0xF0:
                    code = (
                        (np.uint32(byte & 0x0F) << np.uint32(12))
                        | (np.uint32(data[position + 1] & 0x3F) << np.uint32(6))
                        | np.uint32(data[position + 2] & 0x3F)
                    )
                    position += 3
                else:
                    code = (
                        (np.uint32(byte & 0x07) << np.uint32(18))
                        | (np.uint32(data[position + 1] & 0x3F) << np.uint32(12))
                        | (np.uint32(data[position + 2] & 0x3F) << np.uint32(6))
                        | np.uint32(data[position + 3] & 0x3F)
                    )
                    position += 4
                count += 1
            kind = classes[code] if code < TABLE_SIZE else np.uint8(0)

            # ---- words
            if kind & (LETTER | DIGIT | MARK):
                small = np.uint64(lower[code])
                if in_word and (kind & UNSPACED or (unspaced and not kind & MARK)):
                    word_hashes[word] = hash_at_end
                    word_length[word] = length_at_end
                    word_has_letter[word] = has_letter
                    word_unspaced[word] = unspaced
                    word_line[word] = line
                    word += 1
                    in_word = False
                if not in_word and kind & (LETTER | DIGIT):
                    in_word = True
                    token_has_word = True
                    sentence_words = True
                    running = start_hash
                    running_length = 0
                    has_letter = False
                    unspaced = (kind & UNSPACED) != 0
                if in_word:
                    # Vowel points and the line that stretches a word (Hebrew, Arabic) do not make another word of it.
                    if not (0x0591 <= code <= 0x0670 and (kind & MARK or code == 0x0640)):
                        running = (running ^ small) * prime
                    running_length += 1
                    hash_at_end = running
                    length_at_end = running_length
                    has_letter = has_letter or (kind & LETTER) != 0
                in_token = True
                if kind & (LETTER | DIGIT):
                    alphanumerics += 1
                if kind & LETTER:
                    letters += 1
                    if kind & UPPER:
                        uppers += 1
                    elif code >= 0x0900:
                        if kind & UNSPACED:
                            if code < 0x3000:
                                unspaced_letters[document] += 1
                                if code < 0x0F00:
                                    unmarked_letters[document] += 1
                        elif (code < 0x1E00 and not 0x10A0 <= code <= 0x10FF) or 0xA800 <= code <= 0xD7FF:
                            syllabic_letters[document] += 1
                elif kind & DIGIT:
                    digits += 1
            elif kind & SPACE:
                if in_word:
                    word_hashes[word] = hash_at_end
                    word_length[word] = length_at_end
                    word_has_letter[word] = has_letter
                    word_unspaced[word] = unspaced
                    word_line[word] = line
                    word += 1
                    in_word = False
                if in_token and not token_has_word:
                    symbol_tokens[document] += 1
                in_token = False
                token_has_word = False
            else:
                in_token = True
                if in_word:
                    if unspaced:
                        word_hashes[word] = hash_at_end
                        word_length[word] = length_at_end
                        word_has_letter[word] = has_letter
                        word_unspaced[word] = unspaced
                        word_line[word] = line
                        word += 1
                        in_word = False
                    else:
                        running = (running ^ np.uint64(code)) * prime
                        running_length += 1
                if code == 35:
                    hash_signs[document] += 1
                elif code == 123:
                    braces += 1

            # ---- ellipses: every three dots in a row, or the one character
            if code == 46:
                dots += 1
                if dots % 3 == 0:
                    ellipses[document] += 1
            else:
                if code == 0x2026:
                    ellipses[document] += 1
                if not kind & SPACE:
                    dots = 0

            # ---- sentences: an end mark, closing quotes, then white space (none needed in unspaced scripts)
            if kind & SENTENCE_END:
                if sentence_words:
                    if code >= 0x3000 or 0x0F00 <= code < 0x1800:
                        sentences += 1
                        sentence_words = False
                    else:
                        sentence_open = True
            elif kind & SPACE:
                if sentence_open:
                    sentences += 1
                    sentence_words = False
                sentence_open = False
            elif not kind & CLOSING:
                sentence_open = False

            # ---- lines and paragraphs
            if code == 10:
                if not at_end:
                    newlines[document] += 1
                if length > 0:
                    if sentence_words:
                        sentences += 1
                    line_hash[line] = content_hash_at_end
                    line_length[line] = length
                    line_width[line] = width
                    line_first[line] = first
                    line_last[line] = last
                    line_ellipsis[line] = ends_in_ellipsis
                    line_letters[line] = letters
                    line_uppers[line] = uppers
                    line_digits[line] = digits
                    line_sentences[line] = sentences
                    line_braces[line] = braces
                    line += 1
                    block_hash = (block_hash ^ content_hash_at_end) * prime
                    block_length += length
                    in_paragraph = True
                if in_paragraph and (length == 0 or at_end):
                    paragraph_hash[paragraph] = block_hash
                    paragraph_length[paragraph] = block_length
                    paragraph += 1
                    in_paragraph = False
                    block_hash = start_hash
                    block_length = 0
                width = 0
                length = 0
                content_hash = start_hash
                letters = 0
                uppers = 0
                digits = 0
                sentences = 0
                braces = 0
                dots = 0
                sentence_words = False
                sentence_open = False
            else:
                width += 1
                if length > 0 or not kind & SPACE:
                    content_hash = (content_hash ^ np.uint64(code)) * prime
                if not kind & SPACE:
                    if length == 0:
                        first = code
                        first_at = width
                    last = code
                    length = width - first_at + 1
                    content_hash_at_end = content_hash
                    ends_in_ellipsis = code == 0x2026 or (code == 46 and dots >= 3)
            if kind & SPACE:
                dots = 0

        characters[document] = count
        word_characters[document] = alphanumerics
        words_of[document + 1] = word
        lines_of[document + 1] = line
        paragraphs_of[document + 1] = paragraph

    return (
        (
            words_of,
            lines_of,
            paragraphs_of,
            characters,
            newlines,
            symbol_tokens,
            hash_signs,
            ellipses,
            word_characters,
            unspaced_letters,
            unmarked_letters,
            syllabic_letters,
        ),
        (
            word_hashes[:word],
            word_length[:word],
            word_has_letter[:word],
            word_unspaced[:word],
            word_line[:word],
        ),
        (
            line_hash[:line],
            line_length[:line],
            line_width[:line],
            line_first[:line],
            line_last[:line],
            line_ellipsis[:line],
            line_letters[:line],
            line_uppers[:line],
            line_digits[:line],
            line_sentences[:line],
            line_braces[:line],
        ),
        (paragraph_hash[:paragraph], paragraph_length[:paragraph]),
    )
