"""A filter: a measure of its own, and the rules that look at it."""

from pipeline.quality.measures import Batch, Columns, Measures
from pipeline.quality.rules import Expression, Rule
from pipeline.quality.text import TextView, ratio


def exclaimed(text: TextView, batch: Batch) -> Columns:
    """Share of lines that end in an exclamation mark."""
    return {"exclaimed_lines": ratio(text.sum_lines(text.line_last == ord("!")), text.lines)}


EXCLAIMED = Measures(("exclaimed_lines",), exclaimed)
CALM = (
    Rule("calm_lines", "exclaimed_lines", "at_most", 0.3),
    Expression("calm_words", "words >= 3 and mean_word_length < 12"),
)
