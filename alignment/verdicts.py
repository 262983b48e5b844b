"""What judges' outcomes say of two models: who won, how much of it is length, and whether the judges agree.

* ``win_rate``: a tie is half a win; with its bootstrap interval over prompts.
* ``length_controlled``: the win rate between replies of one length, after AlpacaEval 2 (arXiv 2404.04475): a logistic
  regression of the outcome on tanh of the standardised difference in length, read where that is nil.
* ``agreement``: Krippendorff's alpha of several judges over win, loss and tie: 1 is perfect, 0 what chance gives.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from alignment.judge import Duel, Outcome
from training.intervals import mean_interval

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
    """σ(θ) of the regression σ(θ + φ·length), by Newton's method."""
    sides = np.stack([np.ones(len(length)), length], 1)
    # Half a win and half a loss more: a rate of 0 or 1 has no logit.
    prior = np.diag([0.0, RIDGE * len(points)])
    weights = np.zeros(2)
    for _ in range(25):
        expected = 1 / (1 + np.exp(-sides @ weights))
        middle = 1 / (1 + np.exp(-weights[0]))
        gradient = sides.T @ (expected - points) + prior @ weights
        curvature = (sides * (expected * (1 - expected))[:, None]).T @ sides + prior
        gradient[0] += middle - 0.5
        curvature[0, 0] += middle * (1 - middle)
        step = np.linalg.solve(curvature + 1e-9 * np.eye(2), gradient)
        weights -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def krippendorff(ratings: Sequence[Sequence[Any]]) -> float | None:
    """Krippendorff's alpha of nominal ratings ``[judge][unit]``, None where a judge said nothing; None where nobody
    differs because there is but one value, or no unit has two ratings."""
    pairs: Counter[tuple[Any, Any]] = Counter()
    for unit in zip(*ratings, strict=True):
        said = [value for value in unit if value is not None]
        if len(said) > 1:
            for first, second in permutations(said, 2):
                pairs[first, second] += 1 / (len(said) - 1)  # type: ignore[assignment]
    totals: Counter[Any] = Counter()
    for (first, _), weight in pairs.items():
        totals[first] += weight
    number = sum(totals.values())
    expected = sum(totals[a] * totals[b] for a, b in permutations(totals, 2))
    if not expected:
        return None
    observed = sum(weight for (first, second), weight in pairs.items() if first != second)
    return float(1 - (number - 1) * observed / expected)
