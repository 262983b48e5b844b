"""What the scanner must know about a character, as two tables indexed by code point.

``classes`` holds bit flags from the Unicode database; ``lower`` its lower-case form (one character). Both are made once
a process, on first use. Code points beyond the tables are CJK extensions or private: see ``TABLE_SIZE``.
"""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LETTER = 1
DIGIT = 2
MARK = 4
SPACE = 8
UPPER = 16
UNSPACED = 32
"""A letter of a script written without spaces between words."""
SENTENCE_END = 64
CLOSING = 128
"""Quotes and brackets that may follow a sentence's end."""

TABLE_SIZE = 0x32400
"""Covers every assigned letter; what lies beyond (private use, variation selectors) counts as a symbol."""

UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han compatibility
    (0x20000, 0x323AF),  # Han extensions B to H
)
SENTENCE_ENDS = ".!?…։؝؞؟۔܀܁܂।॥၊။།༎።፧፨។៕᠃᠉᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉。꓿꘎꘏꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
"""Unicode's Sentence_Terminal in living scripts, the ellipsis and Tibetan's shad. Thai and Lao end a sentence by a space."""
CLOSINGS = "\"'”’»›)]}」』）】》"
ZERO_WIDTH_SPACE = 0x200B
"""Marks word boundaries in Thai and Khmer; Unicode does not call it white space."""
ETHIOPIC_WORDSPACE = 0x1361


class CharacterTables(NamedTuple):
    classes: NDArray[np.uint8]
    lower: NDArray[np.uint32]


@cache
def character_tables() -> CharacterTables:
    """The two tables, built from the Unicode database of the running Python."""
    classes = np.zeros(TABLE_SIZE, np.uint8)
    lower = np.arange(TABLE_SIZE, dtype=np.uint32)
    for code in range(TABLE_SIZE):
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cn":
            continue
        classes[code] = _class_of(character, category)
        small = character.lower() if category[0] == "L" else character
        if len(small) == 1:
            lower[code] = ord(small)
    for first, last in UNSPACED_RANGES:
        letters = classes[first : last + 1]
        letters[(letters & LETTER) > 0] |= UNSPACED
    classes[[ZERO_WIDTH_SPACE, ETHIOPIC_WORDSPACE]] = SPACE
    return CharacterTables(classes, lower)


def _class_of(character: str, category: str) -> int:
    flags = {"L": LETTER, "N": DIGIT, "M": MARK}.get(category[0], 0)
    if character.isspace():
        flags = SPACE
    if category in ("Lu", "Lt"):
        flags |= UPPER
    if character in SENTENCE_ENDS:
        flags |= SENTENCE_END
    if character in CLOSINGS:
        flags |= CLOSING
    return flags
