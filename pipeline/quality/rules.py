"""Rules: thresholds over attributes, and expressions. Presets carry the names of the papers whose values they hold; other
packages' presets are found by dotted path (``infra.extensions``), and are tuples of ``Rule`` and ``Expression`` too.

A document is judged by the rules in order; the first that it fails decides and is named in the ledger. A rule says
nothing about a document whose attribute is undefined (no stop list for its language, no spaces between its words).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isnan
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import ConfigError, nearest
from infra.extensions import load, offered, reference_of
from pipeline.quality.expressions import bound_in, holds, names_in, parsed

Bound = Literal["at_least", "at_most"]
Verdicts = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """Documents whose ``attribute`` is not ``bound`` ``threshold`` are dropped."""

    name: str
    attribute: str
    bound: Bound
    threshold: float

    def __post_init__(self) -> None:
        """Raises ValueError: presets of other packages are checked by no type."""
        if self.bound not in get_args(Bound) or not isinstance(self.threshold, (int, float)) or isnan(self.threshold):
            raise ValueError(
                f"the rule {self.name!r} says {self.bound!r} and {self.threshold!r}: "
                f"a bound is {' or '.join(get_args(Bound))}, a threshold a number"
            )

    @property
    def attributes(self) -> tuple[str, ...]:
        return (self.attribute,)

    def fails(self, attributes: pa.RecordBatch | pa.Table) -> Verdicts:
        """Which documents of a batch fail."""
        column = attributes.column(self.attribute)
        broken = pc.less(column, self.threshold) if self.bound == "at_least" else pc.greater(column, self.threshold)
        return np.asarray(pc.fill_null(broken, False), np.bool_)


@dataclass(frozen=True)
class Expression:
    """Documents of which ``expression`` does not hold are dropped (``pipeline.quality.expressions``).

    Raises ValueError for what is no expression.
    """

    name: str
    expression: str

    def __post_init__(self) -> None:
        parsed(self.expression)

    @property
    def attributes(self) -> tuple[str, ...]:
        return names_in(parsed(self.expression))

    @property
    def attribute(self) -> str | None:
        """The one attribute it looks at, whose value a ledger's row gives; None of several."""
        return self.attributes[0] if len(self.attributes) == 1 else None

    @property
    def threshold(self) -> float | None:
        return bound_in(parsed(self.expression))

    def fails(self, attributes: pa.RecordBatch | pa.Table) -> Verdicts:
        held = holds(parsed(self.expression), attributes)
        return ~np.asarray(pc.fill_null(held, True), np.bool_)


AnyRule = Rule | Expression


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


_C4 = (
    Rule("c4_lorem_ipsum", "lorem_ipsum_lines", "at_most", 0),
    Rule("c4_curly_brackets", "curly_brackets", "at_most", 0),
)
"""``c4_curly_brackets`` drops every page that shows code: the default for web pages leaves it out (``without``)."""

_FINEWEB = (
    Rule("fineweb_punctuated_lines", "punctuated_lines", "at_least", 0.12),
    Rule("fineweb_short_lines", "short_lines", "at_most", 0.67),
    Rule("fineweb_duplicate_line_characters", "duplicate_line_characters", "at_most", 0.01),
    Rule("fineweb_newlines", "newline_ratio", "at_most", 0.3),
)

PRESETS: Mapping[Preset, tuple[Rule, ...]] = {
    # Rae et al. 2021, A.1.1
    Preset.GOPHER_QUALITY: (
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
    ),
    # Rae et al. 2021, table A1
    Preset.GOPHER_REPETITION: (
        Rule("gopher_duplicate_lines", "duplicate_lines", "at_most", 0.30),
        Rule("gopher_duplicate_paragraphs", "duplicate_paragraphs", "at_most", 0.30),
        Rule("gopher_duplicate_line_characters", "duplicate_line_characters", "at_most", 0.20),
        Rule("gopher_duplicate_paragraph_characters", "duplicate_paragraph_characters", "at_most", 0.20),
        Rule("gopher_top_2gram_characters", "top_2gram_characters", "at_most", 0.20),
        Rule("gopher_top_3gram_characters", "top_3gram_characters", "at_most", 0.18),
        Rule("gopher_top_4gram_characters", "top_4gram_characters", "at_most", 0.16),
        Rule("gopher_duplicate_5gram_characters", "duplicate_5gram_characters", "at_most", 0.15),
        Rule("gopher_duplicate_6gram_characters", "duplicate_6gram_characters", "at_most", 0.14),
        Rule("gopher_duplicate_7gram_characters", "duplicate_7gram_characters", "at_most", 0.13),
        Rule("gopher_duplicate_8gram_characters", "duplicate_8gram_characters", "at_most", 0.12),
        Rule("gopher_duplicate_9gram_characters", "duplicate_9gram_characters", "at_most", 0.11),
        Rule("gopher_duplicate_10gram_characters", "duplicate_10gram_characters", "at_most", 0.10),
    ),
    # Raffel et al. 2020: sentences counted in lines that end in terminal punctuation
    Preset.C4: (*_C4, Rule("c4_sentences", "c4_sentences", "at_least", 5)),
    # C4 as FineWeb uses it: lines need not end in terminal punctuation
    Preset.C4_OPEN_LINES: (*_C4, Rule("c4_sentences_open_lines", "c4_sentences_open_lines", "at_least", 5)),
    # Penedo et al. 2024: as in the published code, and as in the paper, whose bound is ten times the code's
    Preset.FINEWEB: _FINEWEB,
    Preset.FINEWEB_PAPER: tuple(
        replace(rule, threshold=0.1) if rule.attribute == "duplicate_line_characters" else rule for rule in _FINEWEB
    ),
    # Penedo et al. 2023, G.2: too much of the page was navigation
    Preset.REFINEDWEB: (Rule("refinedweb_navigation", "navigation_line_words", "at_most", 0.05),),
    # Dolma (Soldaini et al. 2024): articles of fewer than 25 words are stubs
    Preset.WIKIPEDIA: (Rule("wikipedia_words", "words", "at_least", 25),),
    # The Stack (Kocetkov et al. 2022) and StarCoder (Li et al. 2023)
    Preset.CODE: (
        Rule("code_longest_line", "longest_line", "at_most", 1000),
        Rule("code_mean_line", "mean_line_length", "at_most", 100),
        Rule("code_alphanumeric", "alphanumeric_characters", "at_least", 0.25),
        Rule("code_letters", "letter_characters", "at_least", 0.25),
        Rule("code_encoded", "longest_word", "at_most", 400),
        Rule("code_comments", "comment_characters", "at_most", 0.8),
        Rule("code_xml_header", "xml_header", "at_most", 0),
    ),
}


def preset(name: str) -> tuple[AnyRule, ...]:
    """The rules of a preset: of ours, or of another package. Raises ConfigError."""
    if name in PRESETS:
        return PRESETS[Preset(name)]
    if reference_of(name, "presets") is None:
        known = [*PRESETS, *offered("presets")]
        raise ConfigError(
            f"there is no preset {name!r}",
            where="quality.sources",
            remedy=f"{nearest(name, known)}Presets: {', '.join(known)}; or a dotted path, package.module:NAME.",
        )
    rules = load(name, "presets", tuple)
    if not rules or not all(isinstance(rule, (Rule, Expression)) for rule in rules):
        raise ConfigError(
            f"{name} is no preset",
            where="quality.sources",
            remedy="A preset is a tuple of pipeline.quality.rules.Rule and Expression, not an empty one.",
        )
    return rules


def rules_of(
    presets: Sequence[str], without: Sequence[str] = (), thresholds: Sequence[tuple[str, float]] = ()
) -> tuple[AnyRule, ...]:
    """The rules of some presets in order, less those left out, with changed thresholds. Raises ConfigError."""
    rules = {rule.name: rule for name in presets for rule in preset(name)}
    changed = dict(thresholds)
    for unknown in [name for name in [*without, *changed] if name not in rules]:
        raise ConfigError(
            f"there is no rule {unknown!r} in the presets {', '.join(presets) or '(none)'}",
            where="quality.sources",
            remedy=f"{nearest(unknown, rules)}Rules there: {', '.join(rules) or 'none'}.",
        )
    if fixed := [name for name in changed if isinstance(rules[name], Expression)]:
        raise ConfigError(
            f"the rule {fixed[0]!r} is an expression and has no threshold",
            where="quality.sources",
            remedy="Leave it out (without), and write another under rules.",
        )
    return tuple(
        replace(rule, threshold=changed[rule.name]) if isinstance(rule, Rule) and rule.name in changed else rule
        for rule in rules.values()
        if rule.name not in without
    )


def check_attributes(rules: Iterable[AnyRule], known: pa.Schema, where: str) -> None:
    """Every rule looks at attributes that there are, and numbers are compared with numbers. Raises ConfigError."""
    for rule in rules:
        for attribute in rule.attributes:
            if attribute not in known.names:
                raise ConfigError(
                    f"the rule {rule.name!r} looks at {attribute!r}, which no document has",
                    where=where,
                    remedy=f"{nearest(attribute, known.names)}Attributes: {', '.join(sorted(known.names))}.",
                )
        try:
            rule.fails(known.empty_table())
        except pa.ArrowException as error:
            raise ConfigError(
                f"the rule {rule.name!r} cannot be computed: {str(error).splitlines()[0]}",
                where=where,
                remedy="Compare numbers with numbers, and language with texts.",
            ) from error


def first_failed(rules: Sequence[AnyRule], attributes: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    """For every document the index of the first rule it fails, or ``len(rules)``."""
    verdict = np.full(attributes.num_rows, len(rules), np.int64)
    for index, rule in reversed(list(enumerate(rules))):
        verdict[rule.fails(attributes)] = index
    return verdict
