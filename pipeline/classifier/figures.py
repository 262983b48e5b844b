"""How good a classifier is: separation, calibration and bias, from scores of documents it has not seen."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from pipeline.classifier.corpus import Sample

NEAREST = 20
BANDS = 10
GROUPS = 20
EXCERPT = 300


@dataclass(frozen=True)
class Scored:
    """A held-out document and its score."""

    sample: Sample
    score: float


def auc(scores: NDArray[np.floating], good: NDArray[np.bool_]) -> float:
    """The probability that a good text scores higher than an ordinary one (ties count half); NaN without both."""
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(scores: NDArray[np.floating], good: NDArray[np.bool_], seed: int = 0) -> tuple[float, float]:
    """A 95 % interval by the bootstrap over documents."""
    if good.all() or not good.any():
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(200):
        picked = random.integers(0, len(scores), len(scores))
        value = auc(scores[picked], good[picked])
        if value == value:
            draws.append(value)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def calibration(scores: NDArray[np.floating], good: NDArray[np.bool_]) -> list[dict[str, float]]:
    """In each band of scores: the mean score and the share that is good. Equal where the scores are probabilities."""
    bands = np.minimum((scores * BANDS).astype(int), BANDS - 1)
    return [
        {"score": float(scores[bands == band].mean()), "good": float(good[bands == band].mean()),
         "documents": int((bands == band).sum())}
        for band in range(BANDS)
        if (bands == band).any()
    ]  # fmt: skip


def calibration_error(bands: Sequence[dict[str, float]]) -> float:
    """Mean distance between score and share, weighted by documents."""
    total = sum(band["documents"] for band in bands)
    return sum(abs(band["score"] - band["good"]) * band["documents"] for band in bands) / total if total else 0.0


def bias(scored: Sequence[Scored], group: Callable[[Sample], str]) -> list[dict[str, Any]]:
    """Mean score of the ordinary documents in the largest groups: what the classifier prefers for other reasons."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in scored:
        if not item.sample.good:
            groups[group(item.sample)].append(item.score)
    largest = sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:GROUPS]
    return [
        {"group": name, "documents": len(values), "mean_score": round(float(np.mean(values)), 6)}
        for name, values in largest
    ]


def length_band(sample: Sample) -> str:
    words = len(sample.text.split())
    for bound in (50, 100, 200, 400, 800, 1600, 3200):
        if words < bound:
            return f"under {bound} words"
    return "3200 words and more"


def domain(sample: Sample) -> str:
    return urlsplit(sample.url).hostname or "(none)"


def nearest(scored: Sequence[Scored], threshold: float) -> list[dict[str, Any]]:
    """The ordinary documents nearest the threshold: read them before you trust it."""
    ordinary = [item for item in scored if not item.sample.good]
    ordinary.sort(key=lambda item: (abs(item.score - threshold), item.sample.id))
    return [
        {"score": round(item.score, 6), "kept": item.score >= threshold, "url": item.sample.url,
         "id": item.sample.id.hex(), "excerpt": " ".join(item.sample.text[:EXCERPT].split())}
        for item in ordinary[:NEAREST]
    ]  # fmt: skip


def report(scored: Sequence[Scored], keep_fraction: float, seed: int) -> dict[str, Any]:
    """Every figure of the classifier's report."""
    scores = np.array([item.score for item in scored], np.float64)
    good = np.array([item.sample.good for item in scored], np.bool_)
    ordinary = np.sort(scores[~good])[::-1]
    threshold = float(ordinary[min(len(ordinary) - 1, int(keep_fraction * len(ordinary)))]) if len(ordinary) else 0.5
    bands = calibration(scores, good)
    low, high = auc_interval(scores, good, seed)
    return {
        "held_out": {"good": int(good.sum()), "ordinary": int((~good).sum())},
        "auc": _number(auc(scores, good)),
        "auc_95": [_number(low), _number(high)],
        "calibration": bands,
        "calibration_error": calibration_error(bands),
        "keep_fraction": keep_fraction,
        "threshold": threshold,
        "good_above_threshold": _number(float((scores[good] >= threshold).mean())) if good.any() else None,
        "by_length": bias(scored, length_band),
        "by_domain": bias(scored, domain),
        "by_language": bias(scored, lambda sample: sample.language or "(unknown)"),
        "nearest_threshold": nearest(scored, threshold),
    }


def _number(value: float) -> float | None:
    return value if value == value else None
