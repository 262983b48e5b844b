"""Rules: thresholds over attributes. Presets carry the names of the papers whose values they hold.

A document is judged by the rules in order; the first that it fails decides and is named in the ledger. A rule says
nothing about a document whose attribute is undefined (no stop list for its language, no spaces between its words).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import ConfigError

Bound = Literal["at_least", "at_most"]
Verdicts = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """Documents whose ``attribute`` is not ``bound`` ``threshold`` are dropped."""

    name: str
    attribute: str
    bound: Bound
    threshold: float

    def fails(self, attributes: pa.RecordBatch | pa.Table) -> Verdicts:
        """Which documents of a batch fail."""
        column = attributes.column(self.attribute)
        broken = pc.less(column, self.threshold) if self.bound == "at_least" else pc.greater(column, self.threshold)
        return np.asarray(pc.fill_null(broken, False), np.bool_)


class Preset(StrEnum):
    """Named sets of rules with published values."""

    GOPHER_QUALITY = "gopher_quality"
    GOPHER_REPETITION = "gopher_repetition"
    C4 = "c4"
    C4_OPEN_LINES = "c4_open_lines"
    FINEWEB = "fineweb"
    FINEWEB_PAPER = "fineweb_paper"
    REFINEDWEB = "refinedweb"
    WIKIPEDIA = "wikipedia"
    CODE = "code"


def preset(name: Preset) -> tuple[Rule, ...]:
    """The rules of a preset."""
    return _PRESETS[name]()


def all_rules() -> dict[str, Rule]:
    """Every rule of every preset, by name."""
    return {rule.name: rule for name in Preset for rule in preset(name)}


def rules_of(
    presets: Sequence[Preset], without: Sequence[str] = (), thresholds: Sequence[tuple[str, float]] = ()
) -> tuple[Rule, ...]:
    """The rules of some presets in order, less those left out, with changed thresholds. Raises ConfigError."""
    rules = {rule.name: rule for name in presets for rule in preset(name)}
    changed = dict(thresholds)
    for unknown in [name for name in [*without, *changed] if name not in rules]:
        raise ConfigError(
            f"there is no rule {unknown!r} in the presets {', '.join(name.value for name in presets) or '(none)'}",
            where="quality.sources",
            remedy=f"Rules there: {', '.join(rules) or 'none'}.",
        )
    return tuple(
        Rule(rule.name, rule.attribute, rule.bound, changed.get(rule.name, rule.threshold))
        for rule in rules.values()
        if rule.name not in without
    )


def first_failed(rules: Sequence[Rule], attributes: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    """For every document the index of the first rule it fails, or ``len(rules)``."""
    verdict = np.full(attributes.num_rows, len(rules), np.int64)
    for index, rule in reversed(list(enumerate(rules))):
        verdict[rule.fails(attributes)] = index
    return verdict


def _gopher_quality() -> tuple[Rule, ...]:
    """Rae et al. 2021, A.1.1."""
    return (
        Rule("gopher_words_min", "words", "at_least", 50),
        Rule("gopher_words_max", "words", "at_most", 100_000),
        Rule("gopher_word_length_min", "mean_word_length", "at_least", 3),
        Rule("gopher_word_length_max", "mean_word_length", "at_most", 10),
        Rule("gopher_hash_signs", "hash_sign_ratio", "at_most", 0.1),
        Rule("gopher_ellipses", "ellipsis_ratio", "at_most", 0.1),
        Rule("gopher_bullet_lines", "bullet_lines", "at_most", 0.9),
        Rule("gopher_ellipsis_lines", "ellipsis_lines", "at_most", 0.3),
        Rule("gopher_alphabetic_words", "alphabetic_words", "at_least", 0.8),
        Rule("gopher_stop_words", "stop_words", "at_least", 2),
    )


def _gopher_repetition() -> tuple[Rule, ...]:
    """Rae et al. 2021, table A1."""
    bounds = {
        "duplicate_lines": 0.30,
        "duplicate_paragraphs": 0.30,
        "duplicate_line_characters": 0.20,
        "duplicate_paragraph_characters": 0.20,
        "top_2gram_characters": 0.20,
        "top_3gram_characters": 0.18,
        "top_4gram_characters": 0.16,
        "duplicate_5gram_characters": 0.15,
        "duplicate_6gram_characters": 0.14,
        "duplicate_7gram_characters": 0.13,
        "duplicate_8gram_characters": 0.12,
        "duplicate_9gram_characters": 0.11,
        "duplicate_10gram_characters": 0.10,
    }
    return tuple(Rule(f"gopher_{attribute}", attribute, "at_most", bound) for attribute, bound in bounds.items())


def _c4() -> tuple[Rule, ...]:
    """Raffel et al. 2020: sentences counted in lines that end in terminal punctuation.

    ``c4_curly_brackets`` drops every page that shows code: leave it out (``without``) where code is wanted.
    """
    return (
        Rule("c4_lorem_ipsum", "lorem_ipsum_lines", "at_most", 0),
        Rule("c4_curly_brackets", "curly_brackets", "at_most", 0),
        Rule("c4_sentences", "c4_sentences", "at_least", 5),
    )


def _c4_open_lines() -> tuple[Rule, ...]:
    """C4 as FineWeb uses it: lines need not end in terminal punctuation."""
    *others, _ = _c4()
    return (*others, Rule("c4_sentences_open_lines", "c4_sentences_open_lines", "at_least", 5))


def _fineweb(duplicate_line_characters: float) -> tuple[Rule, ...]:
    return (
        Rule("fineweb_punctuated_lines", "punctuated_lines", "at_least", 0.12),
        Rule("fineweb_short_lines", "short_lines", "at_most", 0.67),
        Rule("fineweb_duplicate_line_characters", "duplicate_line_characters", "at_most", duplicate_line_characters),
        Rule("fineweb_newlines", "newline_ratio", "at_most", 0.3),
    )


def _fineweb_code() -> tuple[Rule, ...]:
    """FineWeb as in its published code: duplicate-line characters at most .01."""
    return _fineweb(0.01)


def _fineweb_paper() -> tuple[Rule, ...]:
    """FineWeb as in its paper (Penedo et al. 2024): duplicate-line characters at most .1, ten times the code's."""
    return _fineweb(0.1)


def _refinedweb() -> tuple[Rule, ...]:
    """Penedo et al. 2023, G.2: too much of the page was navigation."""
    return (Rule("refinedweb_navigation", "navigation_line_words", "at_most", 0.05),)


def _wikipedia() -> tuple[Rule, ...]:
    """Dolma (Soldaini et al. 2024): articles of fewer than 25 words are stubs."""
    return (Rule("wikipedia_words", "words", "at_least", 25),)


def _code() -> tuple[Rule, ...]:
    """The Stack (Kocetkov et al. 2022) and StarCoder (Li et al. 2023)."""
    return (
        Rule("code_longest_line", "longest_line", "at_most", 1000),
        Rule("code_mean_line", "mean_line_length", "at_most", 100),
        Rule("code_alphanumeric", "alphanumeric_characters", "at_least", 0.25),
        Rule("code_letters", "letter_characters", "at_least", 0.25),
        Rule("code_encoded", "longest_word", "at_most", 400),
        Rule("code_comments", "comment_characters", "at_most", 0.8),
        Rule("code_xml_header", "xml_header", "at_most", 0),
    )


_PRESETS: dict[Preset, Callable[[], tuple[Rule, ...]]] = {
    Preset.GOPHER_QUALITY: _gopher_quality,
    Preset.GOPHER_REPETITION: _gopher_repetition,
    Preset.C4: _c4,
    Preset.C4_OPEN_LINES: _c4_open_lines,
    Preset.FINEWEB: _fineweb_code,
    Preset.FINEWEB_PAPER: _fineweb_paper,
    Preset.REFINEDWEB: _refinedweb,
    Preset.WIKIPEDIA: _wikipedia,
    Preset.CODE: _code,
}
