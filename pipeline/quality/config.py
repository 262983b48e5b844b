"""The configuration of the selection: which rules hold for which source."""

from collections import Counter
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from infra.config import Config, Later
from infra.errors import ConfigError
from infra.extensions import offered
from pipeline.profiles import CHOICES, BySource, Profile, SourceEntry, entry_for
from pipeline.quality.expressions import parsed
from pipeline.quality.languages import CHOSEN
from pipeline.quality.rules import PRESETS, AnyRule, Expression, Preset, rules_of


class OwnRule(Config):
    """A rule that the recipe itself writes down."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    """What the ledger calls it."""
    expression: str
    """What must hold of a document that is kept, as in words >= 50 and letter_characters > 0.4. Names are attributes."""

    @field_validator("expression")
    @classmethod
    def _is_one(cls, text: str) -> str:
        parsed(text)
        return text


def _presets(schema: dict[str, Any]) -> None:
    """A form offers ours, and what installed packages offer."""
    schema["items"] = {"type": "string", "enum": [*PRESETS, *sorted(offered("presets"))]}


class SourceRules(SourceEntry):
    """What a source's documents must meet."""

    languages: tuple[str, ...] = ()
    """Those that are kept, as the source says them, else ISO 639 codes; none: all of them."""
    language_score: float = Field(default=0.65, ge=0, le=1)
    """Least certainty about the language, where languages are given."""
    presets: tuple[str, ...] = Field(default=(), json_schema_extra=_presets)
    """Sets of rules, applied in this order: by name, or by the dotted path of another package's."""
    rules: Annotated[tuple[OwnRule, ...], Later()] = ()
    """Further rules, applied after the presets."""
    without: tuple[str, ...] = ()
    """Rules of those presets to leave out, such as c4_curly_brackets, which drops every page that shows code."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Other thresholds for single rules: {"gopher_words_min": 30}."""
    keep_fraction: float | None = Field(default=None, gt=0, le=1)
    """Of the documents that pass the rules, the share with the best classifier scores that is kept; none: all."""

    @model_validator(mode="after")
    def _rules_exist(self) -> "SourceRules":
        try:
            self.all_rules()
        except ConfigError as error:
            raise ValueError(f"{error.error}. {error.remedy}") from None
        return self

    def all_rules(self) -> tuple[AnyRule, ...]:
        """Those of its presets, and its own."""
        own = tuple(Expression(rule.name, rule.expression) for rule in self.rules)
        return rules_of(self.presets, self.without, list(self.thresholds.items())) + own


WEB_PRESETS = (Preset.GOPHER_REPETITION, Preset.GOPHER_QUALITY, Preset.C4_OPEN_LINES, Preset.FINEWEB_PAPER)
WEB_WITHOUT = ("c4_curly_brackets", "fineweb_punctuated_lines")
"""The first drops pages that show code, and with them what a model knows of code. The second counts lines that end in
punctuation, which says little where a line is a paragraph or a cell: what it drops teaches as much as what is kept
(docs/notebook.md)."""


class QualityConfig(BySource):
    """Which documents are kept."""

    sources: tuple[SourceRules, ...] = (
        SourceRules(profile=Profile.WEB, languages=("en",), presets=WEB_PRESETS, without=WEB_WITHOUT),
        SourceRules(profile=Profile.ENCYCLOPEDIA, presets=(Preset.WIKIPEDIA,)),
        SourceRules(profile=Profile.CODE, presets=(Preset.CODE,)),
        SourceRules(),
    )
    """Rules by source: the first entry that fits a source's name and profile holds for it."""
    rules: Annotated[tuple[OwnRule, ...], Later()] = ()
    """Rules for every source, applied after its own."""

    @model_validator(mode="after")
    def _names_differ(self) -> "QualityConfig":
        """The ledger knows a rule by its name."""
        for entry in self.sources:
            names = Counter([*CHOSEN, *(rule.name for rule in (*entry.all_rules(), *self.rules))])
            if twice := next((name for name, times in names.items() if times > 1), None):
                raise ValueError(f"two rules are called {twice!r}; give each a name of its own")
        return self


def rules_for(config: QualityConfig, source: str) -> SourceRules:
    """The entry that holds for a source, with the rules that hold for all. Raises ConfigError if there is none."""
    entry = entry_for(config, config.sources, source, "quality.sources")
    return entry.model_copy(update={"rules": (*entry.rules, *config.rules)}) if config.rules else entry


def describe_selection(config: QualityConfig, source: str) -> list[str]:
    """What a user should know of a source's entry before relying on it: languages that go, or that nothing is asked."""
    entry = rules_for(config, source)
    where = f"quality.sources, entry {entry.described}"
    if entry.languages:
        return [f"{source}: only documents in {', '.join(entry.languages)} are kept ({where})"]
    if entry.presets or entry.rules or entry.keep_fraction is not None:
        return []
    unsaid = "" if config.profile_of(source) else f"; nothing says what it is: give the source a profile ({CHOICES})"
    return [f"{source}: no quality rule holds for it, all of its documents pass ({where}){unsaid}"]
