"""What judges' outcomes say of two models: who won, how much of it is length, and whether the judges agree.

* ``win_rate``: a tie is half a win; with its bootstrap interval over prompts.
* ``length_controlled``: the win rate between replies of one length, after AlpacaEval 2 (arXiv 2404.04475): a logistic
  regression of the outcome on tanh of the standardised difference in length, read where that is nil.
* ``agreement``: Krippendorff's alpha of several judges over win, loss and tie: 1 is perfect, 0 what chance gives.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignment.judge import Duel, Outcome
from training.intervals import Interval, mean_interval

RESAMPLES = 500
RIDGE = 1e-2
"""Of the length's coefficient, which runs away where the longer reply always wins."""


def verdict(duels: Sequence[Duel], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Wins of the left model by the majority of the judges; of several also each one's, and their agreement."""
    decided = majority(list(outcomes.values()))
    points = np.array([{"left": 1.0, "right": 0.0}.get(outcome, 0.5) for outcome in decided])
    view: dict[str, Any] = {
        "prompts": len(duels),
        "wins": decided.count("left"),
        "losses": decided.count("right"),
        "ties": decided.count("tie"),
        "flipped": decided.count("flipped"),
        "win_rate": mean_interval(points, 0).as_dict(),
        "length_controlled": length_controlled(points, duels),
        "longer_won": _longer_won(duels, decided),
        "mean_characters": {
            "left": float(np.mean([len(duel.left) for duel in duels])),
            "right": float(np.mean([len(duel.right) for duel in duels])),
        },
        "outcomes": decided,
    }
    if len(outcomes) > 1:
        said = [["tie" if outcome == "flipped" else outcome for outcome in each] for each in outcomes.values()]
        view["agreement"] = krippendorff(said)
        view["judges"] = {name: verdict(duels, {name: each}) for name, each in outcomes.items()}
    return view


def majority(outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """What more judges say than say anything else; where there is no such thing, a tie."""
    decided: list[Outcome] = []
    for votes in zip(*outcomes, strict=True):
        (first, most), *others = Counter(votes).most_common()
        decided.append("tie" if others and others[0][1] == most else first)
    return decided


def _longer_won(duels: Sequence[Duel], outcomes: Sequence[Outcome]) -> float | None:
    decided = [
        (outcome == "left") == (len(duel.left) > len(duel.right))
        for duel, outcome in zip(duels, outcomes, strict=True)
        if outcome in ("left", "right") and len(duel.left) != len(duel.right)
    ]
    return sum(decided) / len(decided) if decided else None


def length_controlled(points: np.ndarray, duels: Sequence[Duel], seed: int = 0) -> dict[str, float | int]:
    """The win rate between replies of one length, with its bootstrap interval over prompts."""
    longer = np.array([len(duel.left) - len(duel.right) for duel in duels], float)
    spread = float(longer.std())
    # Not centred: no difference must stay no difference.
    length = np.tanh(longer / spread) if spread > 0 else np.zeros(len(longer))
    draws = np.random.default_rng(seed).integers(0, len(points), (RESAMPLES, len(points)))
    rates = [_at_equal_length(points[draw], length[draw]) for draw in draws]
    low, high = np.quantile(rates, [0.025, 0.975])
    return {"value": _at_equal_length(points, length), "low": float(low), "high": float(high), "n": len(points)}


def _at_equal_length(points: np.ndarray, length: np.ndarray) -> float:
    """σ(θ) of the regression σ(θ + φ·length)."""
    # Half a win and half a loss more: a rate of 0 or 1 has no logit.
    sides = np.stack([np.ones(len(length) + 1), np.append(length, 0.0)], 1)
    prior = np.array([0.0, RIDGE * len(points)])
    fitted, _ = logistic(sides, np.append(points, 0.5), np.ones(len(sides)), prior)
    return float(1 / (1 + np.exp(-fitted[0])))


def logistic(
    sides: np.ndarray, points: np.ndarray, weights: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of a logistic regression of ``points`` in [0, 1], and the curvature there, by Newton's method.

    ``prior``: a penalty for the square of each coefficient.
    """
    fitted = np.zeros(sides.shape[1])
    curvature = np.diag(prior)
    for _ in range(25):
        expected = 1 / (1 + np.exp(-sides @ fitted))
        gradient = sides.T @ (weights * (expected - points)) + prior * fitted
        curvature = (sides * (weights * expected * (1 - expected))[:, None]).T @ sides + np.diag(prior)
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(fitted)), gradient)
        fitted -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return fitted, curvature


def krippendorff(ratings: Sequence[Sequence[Any]]) -> float | None:
    """Krippendorff's alpha of nominal ratings ``[judge][unit]``, None where a judge said nothing; None where nobody
    differs because there is but one value, or no unit has two ratings."""
    found = _coincidences(ratings)
    alpha = float(_alpha(found.sum(0)))
    return None if np.isnan(alpha) else alpha


def alpha_interval(ratings: Sequence[Sequence[Any]], seed: int = 0) -> Interval | None:
    """The same with its bootstrap interval over units."""
    found = _coincidences(ratings)
    value = float(_alpha(found.sum(0)))
    if np.isnan(value):
        return None
    units = len(found)
    draws = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    # A sample in which all say one thing tells nothing of agreement.
    low, high = np.nanquantile(_alpha(np.tensordot(draws, found, 1)), [0.025, 0.975])
    return Interval(value, float(low), float(high), units)


def _coincidences(ratings: Sequence[Sequence[Any]]) -> np.ndarray:
    """How often two judges of a unit said which two values ``[unit, value, value]``, of units with two ratings or more."""
    values = sorted({value for judge in ratings for value in judge if value is not None}, key=str)
    code = {value: at for at, value in enumerate(values)}
    units = []
    for unit in zip(*ratings, strict=True):
        said = np.bincount([code[value] for value in unit if value is not None], minlength=len(values))
        if said.sum() > 1:
            units.append((np.outer(said, said) - np.diag(said)) / (said.sum() - 1))
    return np.array(units).reshape(len(units), len(values), len(values))


def _alpha(coincidences: np.ndarray) -> np.ndarray:
    """Alpha of coincidences ``[…, value, value]``; NaN where there is but one value."""
    same = np.trace(coincidences, axis1=-2, axis2=-1)
    totals = coincidences.sum(-1)
    number = totals.sum(-1)
    expected = number**2 - (totals**2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha: np.ndarray = np.where(expected > 0, 1 - (number - 1) * (number - same) / expected, np.nan)
    return alpha
