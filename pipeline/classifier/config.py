"""What the quality classifier is trained on, and how."""

from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, model_validator

from infra.config import Config, Execution
from pipeline.language import LanguageConfig
from pipeline.profiles import BySource, Profile
from pipeline.quality.rules import Preset


class TextSet(Config):
    """A set of texts: the documents of sources of this run, or a file."""

    profile: Profile | None = None
    """All sources of the ingest dataset that are of this profile."""
    source: str = ""
    """Or those of this name; * and ? stand for anything."""
    file: Annotated[str, Execution()] = ""
    """Or the address of a .jsonl, .jsonl.gz or .parquet file from outside; its content, not its place, is its identity."""
    column: str = "text"
    """Its column with the text."""
    where: str = ""
    """Only rows of the file for which this column = value holds: label=1."""

    @model_validator(mode="after")
    def _one_of_three(self) -> "TextSet":
        if bool(self.source) + bool(self.file) + bool(self.profile) != 1:
            raise ValueError("a text set names a profile, a source or a file")
        return self

    @property
    def described(self) -> str:
        if self.profile:
            return f"profile `{self.profile}`"
        return f"source `{self.source}`" if self.source else f"file `{self.file.rsplit('/', 1)[-1]}`"


class ClassifierConfig(BySource):
    """Sets of texts, how they are cut and balanced, and fastText's own settings."""

    positives: tuple[TextSet, ...] = Field(default=(TextSet(profile=Profile.ENCYCLOPEDIA),), min_length=1)
    """Text as it should be."""
    negatives: tuple[TextSet, ...] = Field(default=(TextSet(profile=Profile.WEB),), min_length=1)
    """Text as it comes."""
    language: LanguageConfig = LanguageConfig()
    """Tells the languages apart: some rules hold for a language, and the report shows scores by language."""
    rules: tuple[Preset, ...] = (Preset.GOPHER_REPETITION, Preset.GOPHER_QUALITY, Preset.C4, Preset.FINEWEB_PAPER)
    """Rules that sort the negatives: those that fail are the bad side, those that pass join the good side. None: as is."""
    documents: int = Field(default=200_000, ge=10)
    """Most documents a side, chosen by a hash of their ids."""
    passage_words: int = Field(default=200, ge=20)
    """Documents are cut into passages of so many words, so that their length teaches nothing."""
    passages_per_document: int = Field(default=8, ge=1)
    """Most passages taken from one document, spread over it."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the documents that the report is measured on."""
    keep_fraction: float = Field(default=0.1, gt=0, le=1)
    """The report shows the documents around the threshold that keeps this share of the negatives."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Chooses documents and the order of training."""

    autotune: bool = False
    """Choose epochs, learning rate and n-grams from a small grid by AUC on a fifth of the training documents."""
    dimension: int = Field(default=32, ge=1)
    """Size of the word vectors."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the passages."""
    learning_rate: float = Field(default=0.1, gt=0)
    """fastText's initial learning rate."""
    word_ngrams: int = Field(default=2, ge=1, le=5)
    """Longest word n-gram that is a feature; 2 as in DCLM."""
    buckets: int = Field(default=200_000, ge=1_000)
    """Hash buckets of the n-grams: model size is about (words + buckets) x dimension x 4 bytes."""
    min_count: int = Field(default=1, ge=1)
    """Words that occur less often are not features."""

    def covers(self, texts: TextSet, source: str) -> bool:
        """Whether a set takes the documents of a source."""
        if texts.profile is not None:
            return texts.profile == self.profile_of(source)
        return bool(texts.source) and fnmatchcase(source, texts.source)
