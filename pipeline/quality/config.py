"""The configuration of the selection: which rules hold for which source."""

from fnmatch import fnmatchcase

from pydantic import Field, model_validator

from infra.config import Config
from infra.errors import ConfigError
from pipeline.quality.rules import Preset, Rule, rules_of


class SourceRules(Config):
    """What a source's documents must meet."""

    source: str = "*"
    """Name of the source as in the recipe; * and ? stand for anything."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes that are kept; none: all of them."""
    language_score: float = Field(default=0.65, ge=0, le=1)
    """Least certainty about the language, where languages are given."""
    presets: tuple[Preset, ...] = ()
    """Sets of rules, applied in this order."""
    without: tuple[str, ...] = ()
    """Rules of those presets to leave out, such as c4_curly_brackets where pages about code are wanted."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Other thresholds for single rules: {"gopher_words_min": 30}."""
    keep_fraction: float | None = Field(default=None, gt=0, le=1)
    """Of the documents that pass the rules, the share with the best classifier scores that is kept; none: all."""

    @model_validator(mode="after")
    def _rules_exist(self) -> "SourceRules":
        try:
            self.rules()
        except ConfigError as error:
            raise ValueError(f"{error.error}. {error.remedy}") from None
        return self

    def rules(self) -> tuple[Rule, ...]:
        return rules_of(self.presets, self.without, list(self.thresholds.items()))


WEB_PRESETS = (Preset.GOPHER_REPETITION, Preset.GOPHER_QUALITY, Preset.C4_OPEN_LINES, Preset.FINEWEB_PAPER)


class QualityConfig(Config):
    """Which documents are kept."""

    sources: tuple[SourceRules, ...] = (
        SourceRules(source="web*", languages=("en",), presets=WEB_PRESETS),
        SourceRules(source="wiki*", presets=(Preset.WIKIPEDIA,)),
        SourceRules(source="code*", presets=(Preset.CODE,)),
        SourceRules(source="*"),
    )
    """Rules by source: the first entry that matches a source's name holds for it."""


def rules_for(config: QualityConfig, source: str) -> SourceRules:
    """The entry that holds for a source. Raises ConfigError if there is none."""
    for entry in config.sources:
        if fnmatchcase(source, entry.source):
            return entry
    raise ConfigError(
        f"no quality rules are given for the source {source!r}",
        where="quality.sources",
        remedy="Add an entry for it, or one for '*'.",
    )


def describe_selection(config: QualityConfig, source: str) -> list[str]:
    """What a user should know of a source's entry before relying on it: languages that go, or that nothing is asked."""
    entry = rules_for(config, source)
    said = []
    if entry.languages:
        languages = ", ".join(entry.languages)
        said.append(f"{source}: only documents in {languages} are kept (quality.sources, entry {entry.source!r})")
    if not entry.presets and not entry.languages and entry.keep_fraction is None:
        said.append(
            f"{source}: no quality rule holds for it, all of its documents pass (quality.sources, entry {entry.source!r})"
        )
    return said
