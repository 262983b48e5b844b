"""A quick look at the language of a page, before the costly extraction.

The identifier reads the page's visible text before extraction, so it is used only to turn away what is surely not
wanted: pages where no wanted language reaches ``threshold`` among the candidates. The language that is written to the
documents is decided later, on the extracted text.
"""

from pathlib import Path

import fasttext

SAMPLE_BYTES = 4_000
CANDIDATES = 5


class LanguageGate:
    """Whether a text may be in one of the wanted languages."""

    def __init__(self, model: Path, wanted: frozenset[str]) -> None:
        self._model = fasttext.load_model(str(model))
        self._wanted = wanted

    def wanted_share(self, text: str) -> float:
        """Probability of the wanted languages together."""
        line = " ".join(text.split())
        if not line:
            return 0.0
        # The wrapped predict() of several fastText builds fails on numpy 2; the bound method does not.
        pairs = self._model.f.predict(line + "\n", CANDIDATES, 0.0, "strict")
        return float(sum(score for score, label in pairs if label.removeprefix("__label__") in self._wanted))
