"""Quality decides how often: a curve from the quantile of a score to repetitions.

A source's training tokens are put in the order of their documents' scores, so a quantile is a share of tokens: from .9 on
lies the best tenth of what training would read. The curve is made of steps, ``[[0, 0], [0.3, 1], [0.9, 4]]``: the worst
three tenths never, the middle once, the best tenth four times. Its mean (here 1) is how many passes over the source that
makes, known before anything is read.

Quantiles come from a sketch (``ranking.py``): tokens by bin of the score. Documents of one bin, ties above all, are taken
alike, each as often as the curve says on average over the tokens of the bin; so the mean holds exactly, whatever the ties.
A document without a score is taken as often as the source is on average: nothing is known of it. What is left of a
repetition after the whole ones is decided by the document's id, as for every rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from infra.config import Config
from infra.errors import InputError
from pipeline.quality.histogram import score_bins

SCORE = "quality"
MOST = 7.0
"""Beyond some seven repetitions a document teaches nothing new (OLMo 3)."""


class Repetition(Config):
    """How often one source's documents are seen, by their score."""

    source: str = Field(min_length=1)
    """Name of the source, as in the recipe."""
    score: str = SCORE
    """What documents are ranked by: ``quality`` (the classifier's score) or another numeric column of ``attributes``."""
    curve: tuple[tuple[float, float], ...] = Field(min_length=1)
    """Steps, each a quantile of the source's tokens and the repetitions (0 to 7) from there on; the first begins at 0."""

    @field_validator("curve")
    @classmethod
    def _steps(cls, given: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        quantiles = [quantile for quantile, _ in given]
        if quantiles[0] != 0 or quantiles != sorted(set(quantiles)) or quantiles[-1] >= 1:
            raise ValueError("the steps' quantiles begin at 0, rise, and stay below 1, as in [[0, 0], [0.3, 1]]")
        if not all(0 <= times <= MOST for _, times in given):
            raise ValueError(f"repetitions lie between 0 and {MOST:.0f}")
        if not any(times for _, times in given):
            raise ValueError("a curve that takes nothing leaves the source out: give it no weight instead")
        return given

    @property
    def mean(self) -> float:
        """Passes over the source's tokens."""
        ends = [*(quantile for quantile, _ in self.curve[1:]), 1.0]
        return sum((end - begin) * times for (begin, times), end in zip(self.curve, ends, strict=True))

    @property
    def described(self) -> str:
        """The curve in words, for a plan."""
        ends = [*(quantile for quantile, _ in self.curve[1:]), 1.0]
        steps = zip(self.curve, ends, strict=True)
        return f"{self.source}: tokens ranked by {self.score}, from the worst to the best " + ", ".join(
            f"{begin:.0%} to {end:.0%} {'never' if not times else f'× {times:g}'}" for (begin, times), end in steps
        )


@dataclass(frozen=True)
class Curve:
    """Repetitions by bin of the score: ``times[i]`` from bin ``bins[i]`` on. As plain values it goes with a unit's work.

    ``score`` is what documents are ranked by, ``unscored`` how often one without it is taken, ``threshold`` the least score
    from which on nothing is left out (None: something is, everywhere), ``edges`` the scores at the steps' quantiles.
    """

    score: str
    bins: tuple[int, ...]
    times: tuple[float, ...]
    unscored: float
    threshold: float | None
    edges: tuple[float, ...]

    @classmethod
    def of(cls, wanted: Repetition, sketched: pa.Table) -> "Curve":
        """The curve over what was found. Raises InputError where no document has the score."""
        known = sketched.filter(pc.is_valid(sketched["bin"]))
        tokens = known["tokens"].to_numpy()
        if not tokens.sum():
            raise InputError(
                f"no document of {wanted.source!r} has the score {wanted.score!r}",
                where="shards.repetition",
                remedy="Name a score that the source's documents have, or leave the source out of shards.repetition.",
            )
        bins, times = known["bin"].to_numpy(), _means(wanted.curve, tokens)
        whole = np.flatnonzero(np.minimum.accumulate(times[::-1])[::-1] >= 1)
        changes = np.flatnonzero(np.diff(times, prepend=-1.0))
        least, ends = known["least"].to_pylist(), np.cumsum(tokens) / tokens.sum()
        return cls(
            wanted.score,
            tuple(bins[changes].tolist()),
            tuple(times[changes].tolist()),
            wanted.mean,
            float(least[int(whole[0])]) if len(whole) else None,
            tuple(float(least[int(np.searchsorted(ends, quantile, side="right"))]) for quantile, _ in wanted.curve),
        )

    def of_scores(self, scores: np.ndarray) -> np.ndarray:
        """How often documents with these scores (NaN: none) are taken."""
        known = ~np.isnan(scores)
        times = np.full(len(scores), self.unscored)
        at = np.searchsorted(np.array(self.bins), score_bins(scores[known]), side="right") - 1
        times[known] = np.array(self.times)[np.maximum(at, 0)]
        return times

    @property
    def least(self) -> float:
        return min(*self.times, self.unscored)

    @property
    def most(self) -> float:
        return max(*self.times, self.unscored)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> "Curve":
        given = dict(payload)
        return cls(**given | {name: tuple(given[name]) for name in ("bins", "times", "edges")})

    def stats(self, wanted: Repetition) -> dict[str, Any]:
        """What a reader of the shards is told: where each step begins, as quantile and as score, and its repetitions."""
        steps = zip(wanted.curve, self.edges, strict=True)
        return {
            "score": self.score,
            "passes": wanted.mean,
            "threshold": self.threshold,
            "steps": [{"quantile": quantile, "from": edge, "times": times} for (quantile, times), edge in steps],
        }


def _means(curve: Sequence[tuple[float, float]], tokens: np.ndarray) -> np.ndarray:
    """The curve's mean over the quantiles that each bin takes up."""
    ends = np.cumsum(tokens) / tokens.sum()
    begins = np.concatenate([[0.0], ends[:-1]])
    quantiles = np.array([quantile for quantile, _ in curve])
    steps = np.array([times for _, times in curve])
    first = np.searchsorted(quantiles, begins, side="right") - 1
    last = np.searchsorted(quantiles, ends, side="left") - 1
    integral = np.concatenate([[0.0], np.cumsum(np.diff([*quantiles, 1.0]) * steps)])
    below = np.interp([begins, ends], [*quantiles, 1.0], integral)
    # Within one step its value as it was written: a sum and a difference would leave it a rounding error away.
    return np.where(first == last, steps[first], (below[1] - below[0]) / (ends - begins))
