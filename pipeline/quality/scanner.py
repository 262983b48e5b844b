"""What a ``TextView`` holds, found in UTF-8 bytes by compiled loops.

One document after another, in passes over its code points, which stay in the processor's cache:

    characters   code points with their classes; letters by kind of script, ellipses, newlines
    words        tokens and words; where a word begins is marked for the sentences
    lines        lines, the sentences in each, paragraphs

A batch's words, lines and paragraphs are columns (``WORD_…`` and ``LINE_…`` name the rows of tables of one type). Valid
UTF-8 is assumed (Arrow strings are). ``uint64`` must never meet ``int64``: NumPy's rules would make it a float.
"""

import numpy as np

from pipeline.kernels import code_point, kernel
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
)

HASH_START = 0xCBF29CE484222325
HASH_PRIME = 0x100000001B3
_START, _PRIME = np.uint64(HASH_START), np.uint64(HASH_PRIME)
_BEGINS = 256
"""A word begins here; beside the flags of ``characters``."""

COUNTS = 9
CHARACTERS, NEWLINES, SYMBOL_TOKENS, HASH_SIGNS, ELLIPSES, WORD_CHARACTERS = 0, 1, 2, 3, 4, 5
UNSPACED_LETTERS, UNMARKED_LETTERS, SYLLABIC_LETTERS = 6, 7, 8
WORD_LENGTH, WORD_LINE = 0, 1
WORD_HAS_LETTER, WORD_UNSPACED = 0, 1
LINE_NUMBERS = 7
LINE_LENGTH, LINE_WIDTH, LINE_LETTERS, LINE_UPPERS, LINE_DIGITS, LINE_SENTENCES, LINE_BRACES = 0, 1, 2, 3, 4, 5, 6


@kernel
def scan(data, offsets, classes, lower):  # type: ignore[no-untyped-def]  # compiled: types come from the call
    """Where each document's words, lines and paragraphs begin, its counts, and the columns of the three."""
    documents = len(offsets) - 1
    room = (offsets[documents] - offsets[0]) // 2 + documents + 2  # each needs a character and something to end it
    longest = 0
    for document in range(documents):
        longest = max(longest, offsets[document + 1] - offsets[document])
    codes = np.empty(longest + 1, np.uint32)
    kinds = np.empty(longest + 1, np.uint16)
    starts = np.zeros((3, documents + 1), np.int64)
    counts = np.zeros((COUNTS, documents), np.int64)

    word_hashes = np.empty(room, np.uint64)
    word_numbers = np.empty((2, room), np.int32)
    word_flags = np.empty((2, room), np.bool_)
    line_hashes = np.empty(room, np.uint64)
    line_numbers = np.empty((LINE_NUMBERS, room), np.int32)
    line_ends = np.empty((2, room), np.uint32)
    line_ellipsis = np.empty(room, np.bool_)
    paragraph_hashes = np.empty(room, np.uint64)
    paragraph_lengths = np.empty(room, np.int32)

    for document in range(documents):
        word, line, paragraph = starts[0, document], starts[1, document], starts[2, document]
        length = _characters(data, offsets[document], offsets[document + 1], classes, codes, kinds, document, counts)
        word, symbols = _words(codes, kinds, length, lower, word, line, word_hashes, word_numbers, word_flags)
        counts[SYMBOL_TOKENS, document] = symbols
        line, paragraph = _lines(
            codes, kinds, length, line, paragraph, line_hashes, line_numbers, line_ends, line_ellipsis, paragraph_hashes,
            paragraph_lengths,
        )  # fmt: skip
        starts[0, document + 1], starts[1, document + 1], starts[2, document + 1] = word, line, paragraph
    words, lines, paragraphs = starts[0, documents], starts[1, documents], starts[2, documents]
    return (
        starts,
        counts,
        (word_hashes[:words], word_numbers[:, :words], word_flags[:, :words]),
        (line_hashes[:lines], line_numbers[:, :lines], line_ends[:, :lines], line_ellipsis[:lines]),
        (paragraph_hashes[:paragraphs], paragraph_lengths[:paragraphs]),
    )


@kernel
def _characters(data, begin, end, classes, codes, kinds, document, counts):  # type: ignore[no-untyped-def]
    """Code points and classes of a document, and a newline behind them, which ends its last line; their number without it.

    Counts what needs no words and lines.
    """
    at, stop = np.uint64(begin), np.uint64(end)
    length = alphanumerics = newlines = hash_signs = ellipses = dots = 0
    while at < stop:
        code, at = code_point(data, at)
        kind = classes[code] if code < TABLE_SIZE else np.uint8(0)
        codes[length] = code
        kinds[length] = kind
        length += 1
        if kind & (LETTER | DIGIT):
            alphanumerics += 1
            dots = 0
            if code >= 0x0900 and kind & LETTER and not kind & UPPER:
                _count_script(code, kind, document, counts)
        elif code == 46:  # every three dots in a row are an ellipsis
            dots += 1
            ellipses += dots % 3 == 0
        else:
            dots = 0
            newlines += code == 10
            hash_signs += code == 35
            ellipses += code == 0x2026
    codes[length] = 10
    kinds[length] = SPACE
    counts[CHARACTERS, document] = length
    counts[WORD_CHARACTERS, document] = alphanumerics
    counts[NEWLINES, document] = newlines
    counts[HASH_SIGNS, document] = hash_signs
    counts[ELLIPSES, document] = ellipses
    return length


@kernel
def _count_script(code, kind, document, counts):  # type: ignore[no-untyped-def]
    if kind & UNSPACED:
        if code < 0x3000:
            counts[UNSPACED_LETTERS, document] += 1
            if code < 0x0F00:
                counts[UNMARKED_LETTERS, document] += 1
    elif (code < 0x1E00 and not 0x10A0 <= code <= 0x10FF) or 0xA800 <= code <= 0xD7FF:
        counts[SYLLABIC_LETTERS, document] += 1


@kernel
def _words(codes, kinds, length, lower, word, line, hashes, numbers, flags):  # type: ignore[no-untyped-def]
    """Words from number ``word`` on, where lines begin with number ``line``; the next word's number, tokens of symbols."""
    symbols = 0
    in_token = token_has_word = in_word = has_letter = unspaced = line_has_text = False
    # of the word being read, and as they were after its last letter, digit or mark
    running = hash_at_end = _START
    running_length = length_at_end = 0
    for i in range(length + 1):
        code, kind = codes[i], kinds[i]
        if in_word and (kind & (SPACE | UNSPACED) or (unspaced and not kind & MARK)):
            hashes[word] = hash_at_end
            numbers[WORD_LENGTH, word] = length_at_end
            numbers[WORD_LINE, word] = line
            flags[WORD_HAS_LETTER, word] = has_letter
            flags[WORD_UNSPACED, word] = unspaced
            word += 1
            in_word = False
        if kind & SPACE:
            symbols += in_token and not token_has_word
            in_token = token_has_word = False
            if code == 10:
                line += line_has_text
                line_has_text = False
            continue
        in_token = line_has_text = True
        if not in_word and kind & (LETTER | DIGIT):
            kinds[i] |= _BEGINS
            in_word = token_has_word = True
            running, running_length = _START, 0
            has_letter = False
            unspaced = (kind & UNSPACED) != 0
        if not in_word:
            continue
        running_length += 1
        if kind & (LETTER | DIGIT | MARK):
            # Vowel points and the line that stretches a word (Hebrew, Arabic) do not make another word of it.
            if not (0x0591 <= code <= 0x0670 and (kind & MARK or code == 0x0640)):
                running = (running ^ np.uint64(lower[code])) * _PRIME
            hash_at_end, length_at_end = running, running_length
            has_letter = has_letter or (kind & LETTER) != 0
        else:
            running = (running ^ np.uint64(code)) * _PRIME
    return word, symbols


@kernel
def _lines(  # type: ignore[no-untyped-def]
    codes, kinds, length, line, paragraph, hashes, numbers, ends, ellipsis, paragraph_hashes, paragraph_lengths
):
    """Lines and paragraphs from these numbers on; the next ones' numbers. An empty line ends a paragraph."""
    begin = 0
    block_hash, block_length = _START, 0
    for i in range(length + 1):
        if codes[i] != 10:
            continue
        has_text = _line(codes, kinds, begin, i, line, hashes, numbers, ends, ellipsis)
        if has_text:
            block_hash = (block_hash ^ hashes[line]) * _PRIME
            block_length += numbers[LINE_LENGTH, line]
            line += 1
        if block_length > 0 and (not has_text or i == length):
            paragraph_hashes[paragraph] = block_hash
            paragraph_lengths[paragraph] = block_length
            paragraph += 1
            block_hash, block_length = _START, 0
        begin = i + 1
    return line, paragraph


@kernel
def _line(codes, kinds, begin, end, line, hashes, numbers, ends, ellipsis):  # type: ignore[no-untyped-def]
    """Write the line that stands there, if it has a character that is no white space; whether it has.

    A sentence is words up to an end mark, closing quotes and white space, or the line's end.
    """
    first, last = begin, end - 1
    while first <= last and kinds[first] & SPACE:
        first += 1
    if first > last:
        return False
    while kinds[last] & SPACE:
        last -= 1
    value = _START
    letters = uppers = digits = braces = sentences = 0
    has_words = closing = False  # since the last sentence: words; an end mark and closing quotes
    line_codes, line_kinds = codes[first : last + 1], kinds[first : last + 1]
    for i in range(len(line_codes)):
        code, kind = line_codes[i], line_kinds[i]
        value = (value ^ np.uint64(code)) * _PRIME
        if kind & (LETTER | DIGIT):
            letters += (kind & LETTER) != 0
            uppers += (kind & UPPER) != 0
            digits += (kind & DIGIT) != 0
            has_words = has_words or (kind & _BEGINS) != 0
        braces += code == 123
        if kind & SENTENCE_END:
            if has_words and (code >= 0x3000 or 0x0F00 <= code < 0x1800):  # unspaced scripts need no white space
                sentences += 1
                has_words = False
            elif has_words:
                closing = True
        elif kind & SPACE:
            sentences += closing
            has_words = has_words and not closing
            closing = False
        elif not kind & CLOSING:
            closing = False
    dots = last - 2 >= begin and codes[last] == 46 and codes[last - 1] == 46 and codes[last - 2] == 46
    hashes[line] = value
    ends[0, line], ends[1, line] = codes[first], codes[last]
    ellipsis[line] = dots or codes[last] == 0x2026
    numbers[LINE_LENGTH, line] = last - first + 1
    numbers[LINE_WIDTH, line] = end - begin
    numbers[LINE_LETTERS, line] = letters
    numbers[LINE_UPPERS, line] = uppers
    numbers[LINE_DIGITS, line] = digits
    numbers[LINE_BRACES, line] = braces
    numbers[LINE_SENTENCES, line] = sentences + (closing or has_words)
    return True
