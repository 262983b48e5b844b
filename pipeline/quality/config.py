"""The configuration of the selection: which rules hold for which source."""

from pydantic import Field, model_validator

from infra.errors import ConfigError
from pipeline.profiles import CHOICES, BySource, Profile, SourceEntry, entry_for
from pipeline.quality.rules import Preset, Rule, rules_of


class SourceRules(SourceEntry):
    """What a source's documents must meet."""

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


class QualityConfig(BySource):
    """Which documents are kept."""

    sources: tuple[SourceRules, ...] = (
        SourceRules(profile=Profile.WEB, languages=("en",), presets=WEB_PRESETS),
        SourceRules(profile=Profile.ENCYCLOPEDIA, presets=(Preset.WIKIPEDIA,)),
        SourceRules(profile=Profile.CODE, presets=(Preset.CODE,)),
        SourceRules(),
    )
    """Rules by source: the first entry that fits a source's name and profile holds for it."""


def rules_for(config: QualityConfig, source: str) -> SourceRules:
    """The entry that holds for a source. Raises ConfigError if there is none."""
    return entry_for(config, config.sources, source, "quality.sources")


def describe_selection(config: QualityConfig, source: str) -> list[str]:
    """What a user should know of a source's entry before relying on it: languages that go, or that nothing is asked."""
    entry = rules_for(config, source)
    where = f"quality.sources, entry {entry.described}"
    if entry.languages:
        return [f"{source}: only documents in {', '.join(entry.languages)} are kept ({where})"]
    if entry.presets or entry.keep_fraction is not None:
        return []
    unsaid = "" if config.profile_of(source) else f"; nothing says what it is: give the source a profile ({CHOICES})"
    return [f"{source}: no quality rule holds for it, all of its documents pass ({where}){unsaid}"]
