"""Which language a text is in: fastText's lid.176, or any fastText model with language codes as labels.

The model is a file of the ``sample`` dataset (``dataset://sample/lid.176.ftz``) or any address. What a model says
decides what is kept, so the digest of a model from outside the store enters the fingerprint of the stages that use it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from infra.config import Config
from infra.store.address import dataset_file, file_url
from infra.store.dataset import Dataset
from pipeline.fasttext_model import best_label, digest_of, load_model, local_copy

CODE = re.compile(r"[a-z]{2,3}(?:[_-][A-Za-z0-9]+)*")


def _coded(language: str) -> str:
    if not CODE.fullmatch(language):
        raise ValueError(f"languages are told by their codes, as in en, de, zh (ISO 639), and {language!r} is none")
    return language


LanguageCode = Annotated[str, AfterValidator(_coded)]
"""A model's: another name would drop every page. What a source itself says of a document may be any word."""


class LanguageConfig(Config):
    """The language model and how much of a text it reads."""

    model: str = "dataset://sample/lid.176.ftz"
    """fastText model with labels like __label__en: a file of the sample dataset (dataset://sample/…) or any address. Empty:
    only what a source says of its language is known."""
    characters: int = Field(default=600, ge=100)
    """Longest excerpt that is looked at: half from the beginning, half from the middle of the text."""


def language_external(config: LanguageConfig) -> dict[str, str]:
    """The identity of a model from outside the store: its digest."""
    return {"language_model": digest_of(config.model)} if config.model and not dataset_file(config.model) else {}


class LanguageDetector:
    """Detects languages in batches."""

    def __init__(self, model: Path | None, characters: int) -> None:
        self._model = load_model(model) if model else None
        self._half = characters // 2

    def detect(self, texts: Sequence[str]) -> Iterator[tuple[str | None, float]]:
        """ISO 639 code (None where there are no words) and its probability, for each text."""
        if self._model is None:
            yield from [(None, 0.0)] * len(texts)
            return
        yield from best_label(self._model, [self._excerpt(text) for text in texts])

    def _excerpt(self, text: str) -> str:
        half = self._half
        if len(text) <= 2 * half:
            return text
        middle = max(half, len(text) // 2)
        return f"{text[:half]} {text[middle : middle + half]}"


def open_detector(config: LanguageConfig, inputs: Mapping[str, Dataset], scratch: Path) -> LanguageDetector:
    """The detector a configuration names. Raises InputError if there is no such model."""
    if not config.model:
        return LanguageDetector(None, config.characters)
    return LanguageDetector(local_copy(file_url(config.model, inputs), scratch), config.characters)
