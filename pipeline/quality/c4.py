"""Measures of C4 (Raffel et al. 2020, section 2.2).

The paper first removes lines, then whole pages. Here a line that it would remove simply does not count: what the page
is judged by is the sentences in the lines that remain. The text itself stays as it is.
"""

import numpy as np

from pipeline.quality.characters import SENTENCE_ENDS
from pipeline.quality.text import Flags, Floats, Ints, TextView

TERMINAL = SENTENCE_ENDS + "\"'”’»」』"
"""The paper asks for a period, exclamation mark, question mark or closing quote: here, those of all scripts."""
FEWEST_LINE_WORDS = 3
LONGEST_WORD = 1000
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def c4(text: TextView) -> dict[str, Floats | Ints]:
    """Every measure, by attribute name. Sentences are undefined in scripts that do not mark where they end."""
    plain = plain_lines(text)
    closed = plain & closed_lines(text)
    return {
        "c4_sentences": _sentences(text, closed),
        "c4_sentences_open_lines": _sentences(text, plain),
        "lorem_ipsum_lines": text.sum_lines(text.lines_with_phrase("lorem ipsum")),
        "curly_brackets": text.sum_lines(text.line_braces),
    }


def _sentences(text: TextView, lines: Flags) -> Floats:
    return np.where(text.unmarked, np.nan, text.sum_lines(np.where(lines, text.line_sentences, 0)))


def closed_lines(text: TextView) -> Flags:
    """Lines that end in terminal punctuation (and not in an ellipsis)."""
    ends = np.isin(text.line_last, np.array([ord(mark) for mark in TERMINAL], np.uint32))
    return ends & ~text.line_ellipsis


def plain_lines(text: TextView) -> Flags:
    """Lines of enough words, without monstrous words, script warnings or cookie notices."""
    removed = text.line_words < FEWEST_LINE_WORDS
    removed |= text.lines_with_phrase("javascript")
    for phrase in POLICY_PHRASES:
        removed |= text.lines_with_phrase(phrase)
    removed[text.word_line[text.word_length > LONGEST_WORD]] = True
    return ~removed
