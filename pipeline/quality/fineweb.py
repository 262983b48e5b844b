"""The three measures FineWeb adds to Gopher's and C4's (Penedo et al. 2024, section 3.6).

Its fourth, characters in duplicate lines, is Gopher's ``duplicate_line_characters`` under another threshold.
"""

import numpy as np

from pipeline.quality.characters import SENTENCE_ENDS
from pipeline.quality.text import Floats, TextView, ratio

LINE_ENDS = SENTENCE_ENDS + "\"'”’»」』"
SHORT_LINE = 30


def fineweb(text: TextView) -> dict[str, Floats]:
    """Every measure, by attribute name."""
    ends = np.isin(text.line_last, np.array([ord(mark) for mark in LINE_ENDS], np.uint32))
    return {
        "punctuated_lines": ratio(text.sum_lines(ends), text.lines),
        "short_lines": ratio(text.sum_lines(text.line_length <= SHORT_LINE), text.lines),
        "newline_ratio": ratio(text.newlines, text.estimated_words),
    }
