"""Measures of source code, as used for The Stack (Kocetkov et al. 2022) and StarCoder (Li et al. 2023, section 3)."""

import numpy as np

from pipeline.quality.text import Floats, Ints, TextView, ratio

COMMENT_STARTS = {
    "#": ("python", "shell", "bash", "ruby", "perl", "r", "yaml", "toml", "make", "makefile", "dockerfile", "julia"),
    "/*": ("c", "c++", "cpp", "c#", "csharp", "java", "javascript", "typescript", "go", "rust", "kotlin", "swift",
           "scala", "php", "css", "dart"),
    "-": ("sql", "lua", "haskell", "ada"),
    "%": ("tex", "latex", "erlang", "matlab", "prolog"),
    ";": ("lisp", "scheme", "clojure", "assembly"),
}  # fmt: skip
"""First characters of a comment line, and the languages they hold for (lower case)."""


def code(text: TextView, programming_languages: list[str | None]) -> dict[str, Floats | Ints]:
    """Every measure, by attribute name."""
    return {
        "lines": text.lines,
        "longest_line": _longest(text.line_width, text.lines_of),
        "mean_line_length": ratio(text.characters - text.newlines, text.newlines + 1),
        "longest_word": _longest(text.word_length, text.words_of),
        "alphanumeric_characters": ratio(text.word_characters, text.characters),
        "letter_characters": ratio(text.sum_lines(text.line_letters), text.characters),
        "comment_characters": comment_characters(text, programming_languages),
        "xml_header": xml_header(text),
    }


def comment_characters(text: TextView, programming_languages: list[str | None]) -> Floats:
    """Share of characters on comment lines; undefined for languages whose comments are not known here."""
    starts_of = {language: starts for starts, languages in COMMENT_STARTS.items() for language in languages}
    starts = [starts_of.get((language or "").lower(), "") for language in programming_languages]
    share = np.full(text.documents, np.nan)
    for kind in set(starts) - {""}:
        of_kind = np.array([start == kind for start in starts])
        commented = np.isin(text.line_first, np.array([ord(character) for character in kind], np.uint32))
        characters = text.sum_lines(np.where(commented, text.line_length, 0))
        share[of_kind] = ratio(characters, text.sum_lines(text.line_length))[of_kind]
    return share


def xml_header(text: TextView) -> Ints:
    """1 where the text begins with an XML declaration: data, not code, whatever its file is called."""
    found = np.zeros(text.documents, np.int64)
    occupied = np.flatnonzero((text.lines > 0) & (text.words > 0))
    first_line, first_word = text.lines_of[occupied], text.words_of[occupied]
    declared = (text.line_first[first_line] == ord("<")) & text.words_in(["xml"])[first_word]
    found[occupied[declared & (text.word_line[first_word] == first_line)]] = 1
    return found


def _longest(lengths: np.ndarray, starts: Ints) -> Ints:
    """Per document the largest of its values (0 for none)."""
    longest = np.zeros(len(starts) - 1, np.int64)
    occupied = np.flatnonzero(np.diff(starts))
    if len(occupied):
        longest[occupied] = np.maximum.reduceat(lengths, starts[occupied])
    return longest
