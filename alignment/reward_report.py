"""What a reward model is worth: how often it is right, how sure it may be, and how much of it is length.

All figures are of held-out pairs of which a person chose one. ``difference`` is the score of the chosen reply less that
of the rejected one; positive is right.

* by margin: accuracy where the model is unsure and where it is sure; one that knows what it knows rises;
* by length: accuracy where the chosen reply is shorter, alike and longer; one that counts words falls to one side;
* calibration: σ(difference) of raw scores is the model's own probability (Bradley-Terry);
* length-controlled: the scores less what a line through their differences in length would say.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.pairs import PairTokens
from training.intervals import wilson

BINS = 5
CALIBRATION_BINS = 10
LEAST = 20
"""Pairs that a bin must hold to be told by itself."""

Figures = dict[str, Any]


def report(scores: np.ndarray, pairs: Sequence[PairTokens], seen: np.ndarray) -> Figures:
    """All of it, from raw scores ``[pairs, 2]``; ``seen`` are scores of training pairs, for their scale."""
    decided = np.array([not pair.tie for pair in pairs])
    difference = (scores[:, 0] - scores[:, 1])[decided]
    lengths = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
    longer_by = (lengths[:, 0] - lengths[:, 1])[decided]
    return {
        "accuracy": accuracy(difference),
        "margin": float(difference.mean()),
        "mean": float(seen.mean()),
        "std": max(float(seen.std()), 1e-6),
        "length": {
            "accuracy_of_choosing_the_longer": float(_credit(longer_by).mean()),
            "accuracy_where_chosen_is_longer": _share(difference[longer_by > 0] > 0),
            "accuracy_where_chosen_is_shorter": _share(difference[longer_by < 0] > 0),
            "correlation_with_score": _correlation(scores.ravel(), lengths.ravel()),
            "by_difference": by_quantile(longer_by, difference),
            **length_controlled(difference, lengths[decided]),
        },
        "by_margin": by_quantile(np.abs(difference), difference),
        "calibration": calibration(difference),
        **_of_people(difference, np.array([pair.margin for pair in pairs])[decided], scores[~decided]),
    }


def accuracy(difference: np.ndarray) -> Figures:
    """The share of positive differences with its interval."""
    return wilson(int((difference > 0).sum()), len(difference)).as_dict()


def _credit(difference: np.ndarray) -> np.ndarray:
    """1 where right, half where neither."""
    return np.where(difference == 0, 0.5, difference > 0)


def by_quantile(by: np.ndarray, difference: np.ndarray, bins: int = BINS) -> list[Figures]:
    """Accuracy in bins of like size by another figure: ``{low, high, accuracy}``, its interval in it."""
    bins = max(1, min(bins, len(by) // LEAST))
    order = np.argsort(by, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [
        {"low": float(by[part].min()), "high": float(by[part].max()), "accuracy": accuracy(difference[part])}
        for part in parts
    ]


def calibration(difference: np.ndarray) -> Figures:
    """How far the model's probabilities are from what happens.

    A pair has no first reply, so the model is asked for its favourite: confidence σ(|difference|) against how often the
    favourite was chosen. ``expected_error`` is the mean gap over bins of confidence, weighted by their pairs.
    """
    confidence = 1 / (1 + np.exp(-np.abs(np.clip(difference, -60, 60))))
    right = difference > 0
    bins, gap = [], 0.0
    for part in np.array_split(
        np.argsort(confidence, kind="stable"), max(1, min(CALIBRATION_BINS, len(right) // LEAST))
    ):
        expected, share = float(confidence[part].mean()), wilson(int(right[part].sum()), len(part))
        gap += len(part) / len(right) * abs(expected - share.value)
        bins.append({"confidence": expected, "accuracy": share.as_dict()})
    probability = np.where(right, confidence, 1 - confidence)
    return {
        "expected_error": gap,
        "log_loss": float(-np.log(np.maximum(probability, 1e-12)).mean()),
        "brier": float(((1 - probability) ** 2).mean()),
        "bins": bins,
    }


def length_controlled(difference: np.ndarray, lengths: np.ndarray) -> Figures:
    """Accuracy once length says nothing: differences less their regression on the difference of log lengths."""
    longer = np.log(lengths[:, 0]) - np.log(lengths[:, 1])
    power = float((longer**2).sum())
    # Through the origin: replies of the same length have no longer one.
    slope = float((longer * difference).sum() / power) if power > 0 else 0.0
    rest, total = difference - slope * longer, float((difference**2).sum())
    return {
        "slope_of_log_length": slope,
        "share_explained_by_length": 1 - float((rest**2).sum()) / total if total > 0 else 0.0,
        "controlled_accuracy": accuracy(rest),
    }


def _of_people(difference: np.ndarray, margins: np.ndarray, ties: np.ndarray) -> Figures:
    """By how sure people were, and what the model says where they were not; nothing where they did not say."""
    figures: Figures = {}
    if margins.size and margins.max() > margins.min():
        figures["by_people's_margin"] = by_quantile(margins, difference)
    if len(ties):
        apart = np.abs(ties[:, 0] - ties[:, 1])
        figures["ties"] = {"n": len(ties), "mean_difference": float(apart.mean())}
        figures["ties"]["of_decided_pairs"] = float(np.abs(difference).mean()) if difference.size else None
    return figures


def _share(right: np.ndarray) -> float | None:
    return float(right.mean()) if right.size else None


def _correlation(scores: np.ndarray, lengths: np.ndarray) -> float | None:
    if scores.std() == 0 or lengths.std() == 0:
        return None
    return float(np.corrcoef(scores, lengths)[0, 1])
