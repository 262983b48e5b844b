"""The trained classifier, as other stages use it."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.store.dataset import Dataset
from pipeline.fasttext_model import load_model, local_copy, probability_of

MODEL_FILE = "data/quality.bin"
GOOD, ORDINARY = "good", "ordinary"
LONGEST = 10_000
"""Characters of a text that are read: more does not change the score of running text."""
MARK = "\u241e"
LINE_LENGTHS = (20, 50, 100, 200, 400)
"""A line's mark tells which of these numbers of characters it reaches."""
CLOSED = ".!?\"'”’:。！？؟।"


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
    """The form in which the classifier sees a text, in training and in use: its words, and a mark after every line.

    fastText knows no lines, yet lines tell running text from menus, tables and listings better than words do. The mark
    says how long the line was and whether it ended like a sentence; bigrams tie it to the words around it.
    """
    pieces = []
    for line in text[:LONGEST].split("\n"):
        line = line.strip()
        if line:
            closed = "." if line[-1] in CLOSED else "_"
            pieces.append(f"{line} {MARK}{bisect_right(LINE_LENGTHS, len(line))}{closed}")
    return " ".join(pieces)
