"""The three measures FineWeb adds to Gopher's and C4's (Penedo et al. 2024, section 3.6).

Its fourth, characters in duplicate lines, is Gopher's ``duplicate_line_characters`` under another threshold.
"""

import numpy as np

from pipeline.quality.c4 import TERMINAL
from pipeline.quality.text import Floats, TextView, ratio

SHORT_LINE = 30


def fineweb(text: TextView) -> dict[str, Floats]:
    """Every measure, by attribute name."""
    ends = np.isin(text.line_last, np.array([ord(mark) for mark in TERMINAL], np.uint32))
    # A letter of an unspaced script says as much as two of an alphabet.
    unspaced = np.bincount(text.word_line[text.word_unspaced], minlength=len(text.line_length))
    return {
        "punctuated_lines": np.where(text.unmarked, np.nan, ratio(text.sum_lines(ends), text.lines)),
        "short_lines": ratio(text.sum_lines(text.line_length + unspaced <= SHORT_LINE), text.lines),
        "newline_ratio": ratio(text.newlines, text.estimated_words),
    }
