"""A quick look at the language of a page, before the costly extraction.

The identifier reads the page's visible text before extraction, so it is used only to turn away what is surely not
wanted: pages where no wanted language reaches ``threshold`` among the candidates. The language that is written to the
documents is decided later, on the extracted text.
"""

from pathlib import Path

from pipeline.fasttext_model import PREFIX, load_model, one_line

SAMPLE_BYTES = 1_500
CANDIDATES = 5


class LanguageGate:
    """Whether a text may be in one of the wanted languages."""

    def __init__(self, model: Path, wanted: frozenset[str]) -> None:
        self._model = load_model(model)
        self._wanted = wanted

    def wanted_share(self, text: str) -> float:
        """Probability of the wanted languages together."""
        text = " ".join(text.split())
        if not text:
            return 0.0
        pairs = self._model.predict(one_line(text), CANDIDATES, 0.0, "strict")
        return float(sum(score for score, label in pairs if label.removeprefix(PREFIX) in self._wanted))
