"""What the votes say: how good each model is, whether annotators agree, and how steady each of them is.

* ``rating``: Bradley-Terry on Elo's scale (400 points are odds of ten to one, the mean is 1000), a tie being half a win.
* ``rating_length_controlled``: the same with the difference in length as a further cause, read where that is nil
  (arXiv 2404.04475), so that a model does not rise by answering at length.
* **Intervals** (95 %) are those of other prompts: votes on one prompt move together, so the covariance is the sandwich
  with prompts as clusters, Student's t for few. One tie beside the votes, spread over all pairs of models, keeps a model
  that won everything finite, and what such an observation may vary by enters too: ten wins of ten stay uncertain.
* ``agreement``: Krippendorff's alpha over win, loss and tie where several judged a pair, with a bootstrap over pairs.
* ``consistency`` of an annotator: how often the answer was the same when a pair came again the other way round.

Repeats count for consistency alone.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
from scipy.special import stdtrit

from alignment.verdicts import RIDGE, alpha_interval, logistic
from alignment.votes.log import Vote, Winner
from training.intervals import wilson

ELO = 400 / np.log(10)
MEAN = 1000.0
POINTS: dict[Winner, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


def board(standing: Sequence[Vote]) -> dict[str, Any]:
    """All figures of the votes that stand, as plain values."""
    first = [vote for vote in standing if not vote.shown.repeat]
    decided = [vote for vote in first if vote.winner in ("a", "b")]
    left = sum(vote.winner == vote.shown.left for vote in decided)
    return {
        "votes": len(first),
        "repeats": len(standing) - len(first),
        "models": _models(first),
        "agreement": _agreement(first),
        "annotators": _annotators(standing),
        "left_won": wilson(left, len(decided)).as_dict() if decided else None,
    }


# ---- models ----------------------------------------------------------------------------------------------------------


def _models(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Best first."""
    names = sorted({name for vote in votes for name in vote.shown.pair.models})
    plain, fair = (ratings(votes, names, length_controlled=control) for control in (False, True))
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    characters: dict[str, list[int]] = defaultdict(list)
    for vote in votes:
        pair = vote.shown.pair
        for name, text, points in zip(
            pair.models, (pair.a, pair.b), (POINTS[vote.winner], 1 - POINTS[vote.winner]), strict=True
        ):
            characters[name].append(len(text))
            tally[name]["votes"] += 1
            tally[name][
                "both_bad" if vote.winner == "both_bad" else {1.0: "wins", 0.0: "losses"}.get(points, "ties")
            ] += 1
    rows = [
        {
            "model": name,
            **dict(zip(("rating", "low", "high"), plain[name], strict=True)),
            "rating_length_controlled": fair[name][0],
            "low_length_controlled": fair[name][1],
            "high_length_controlled": fair[name][2],
            **{key: tally[name][key] for key in ("votes", "wins", "losses", "ties", "both_bad")},
            "mean_characters": float(np.mean(characters[name])),
        }
        for name in names
    ]
    return sorted(rows, key=lambda row: (-(row["rating"] or 0), row["model"]))


def ratings(
    votes: Sequence[Vote], names: Sequence[str], *, length_controlled: bool = False
) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Rating with its interval of each model; None where there is but one."""
    met = [vote for vote in votes if len(set(vote.shown.pair.models)) == 2]
    if len(names) < 2 or not met:
        return dict.fromkeys(names, (None, None, None))
    column = {name: at for at, name in enumerate(names)}
    ties = list(combinations(range(len(names)), 2))
    sides = np.zeros((len(met) + len(ties), len(names) + 1))
    pairs = [vote.shown.pair for vote in met]
    for row, (first, second) in enumerate([*((column[a], column[b]) for a, b in (p.models for p in pairs)), *ties]):
        sides[row, first], sides[row, second] = 1.0, -1.0
    longer = np.array([len(pair.a) - len(pair.b) for pair in pairs], float)
    spread = float(longer.std()) if length_controlled else 0.0
    sides[: len(met), -1] = np.tanh(longer / spread) if spread > 0 else 0.0
    points = np.array([*(POINTS[vote.winner] for vote in met), *[0.5] * len(ties)])
    weights = np.array([*[1.0] * len(met), *[1 / len(ties)] * len(ties)])
    prior = np.zeros(len(names) + 1)
    prior[-1] = RIDGE * len(met)
    fitted, curvature = logistic(sides, points, weights, prior)
    prompts = [pair.prompt_id for pair in pairs]
    covariance, clusters = _sandwich(sides, points - 1 / (1 + np.exp(-sides @ fitted)), weights, curvature, prompts)
    centre = np.eye(len(names)) - 1 / len(names)
    values = centre @ fitted[:-1]
    errors = np.sqrt(np.diag(centre @ covariance[:-1, :-1] @ centre.T))
    width = stdtrit(max(1, clusters - 1), 0.975) * errors
    return {
        name: tuple(float(MEAN + ELO * value) for value in (values[at], values[at] - width[at], values[at] + width[at]))  # type: ignore[misc]
        for name, at in column.items()
    }


def _sandwich(
    sides: np.ndarray, residuals: np.ndarray, weights: np.ndarray, curvature: np.ndarray, prompts: Sequence[str]
) -> tuple[np.ndarray, int]:
    """Covariance of the coefficients with prompts as clusters; the rows behind the votes are what was added to them."""
    number = len(prompts)
    _, cluster = np.unique(prompts, return_inverse=True)
    clusters = int(cluster.max()) + 1
    scores = np.zeros((clusters, sides.shape[1]))
    np.add.at(scores, cluster, residuals[:number, None] * sides[:number])
    meat = scores.T @ scores * (clusters / max(1, clusters - 1))
    added, off = sides[number:], residuals[number:] - 0.5
    # A tie is half a win and half a loss: what either of them would be off by.
    noise = weights[number:] * (0.5 * off**2 + 0.5 * (off + 1) ** 2)
    meat += (added * noise[:, None]).T @ added
    inverse = np.linalg.pinv(curvature)
    return inverse @ meat @ inverse, clusters


# ---- annotators ------------------------------------------------------------------------------------------------------


def _agreement(votes: Sequence[Vote]) -> dict[str, Any]:
    """Of the pairs that several judged."""
    names = sorted({vote.shown.annotator for vote in votes})
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for vote in votes:
        said[vote.shown.pair.id][vote.shown.annotator] = "tie" if vote.winner == "both_bad" else vote.winner
    shared = [judged for judged in said.values() if len(judged) > 1]
    found = alpha_interval([[judged.get(name) for judged in shared] for name in names])
    return {
        "alpha": found.value if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "pairs": len(shared),
    }


def _annotators(standing: Sequence[Vote]) -> list[dict[str, Any]]:
    """Each with figures that tell care from haste."""
    mine: dict[str, list[Vote]] = defaultdict(list)
    others: dict[str, list[Vote]] = defaultdict(list)
    for vote in standing:
        mine[vote.shown.annotator].append(vote)
        if not vote.shown.repeat:
            others[vote.shown.pair.id].append(vote)
    return [_annotator(name, cast, others) for name, cast in sorted(mine.items())]


def _annotator(name: str, cast: Sequence[Vote], others: dict[str, list[Vote]]) -> dict[str, Any]:
    first = {vote.shown.pair.id: vote for vote in cast if not vote.shown.repeat}
    same = [
        POINTS[vote.winner] == POINTS[first[vote.shown.pair.id].winner]
        for vote in cast
        if vote.shown.repeat and vote.shown.pair.id in first
    ]
    with_others = [
        POINTS[vote.winner] == POINTS[other.winner]
        for vote in first.values()
        for other in others[vote.shown.pair.id]
        if other.shown.annotator != name
    ]
    steady = wilson(sum(same), len(same)) if same else None
    return {
        "name": name,
        "votes": len(first),
        "repeats": len(same),
        "consistency": steady.value if steady else None,
        "consistency_low": steady.low if steady else None,
        "consistency_high": steady.high if steady else None,
        "agrees_with_others": sum(with_others) / len(with_others) if with_others else None,
        "median_seconds": float(median(vote.seconds for vote in cast)),
        "left": sum(vote.winner == vote.shown.left for vote in first.values()),
        "right": sum(vote.winner == vote.shown.right for vote in first.values()),
    }
