"""The trained classifier, as other stages use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.store.dataset import Dataset
from pipeline.fasttext_model import load_model, local_copy, probability_of

MODEL_FILE = "data/quality.bin"
GOOD, ORDINARY = "good", "ordinary"
LONGEST = 20_000
"""Characters of a text that are read: more does not change the score of running text."""


class QualityModel:
    """Scores texts by the probability that they belong to the good set."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def open(cls, dataset: Dataset, scratch: Path) -> "QualityModel":
        """The model of a ``classifier`` dataset."""
        return cls(load_model(local_copy(dataset.url(MODEL_FILE), scratch)))

    def score(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One probability a text."""
        return probability_of(self._model, GOOD, [prepare(text) for text in texts])


def prepare(text: str) -> str:
    """The form in which the classifier sees a text, in training and in use."""
    return text[:LONGEST].lower()
