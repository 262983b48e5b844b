"""Weights of sources from one small model a source: MixMin (Thudi et al., arXiv 2502.10510).

Where a model is large enough, training on a mixture of sources gives the mixture of what training on each would give. So the
best weights w for a target are those of the best mixture of predictive distributions,

    minimise over the simplex    f(w) = - sum over pieces x of  share(x) · log( sum over sources s of  w_s · p_s(x) )

which is convex: one optimum, found from the log-probabilities that each source's model gives the target. A piece is a token
after its context, or a whole item, as in the paper's code. With whole items every one belongs to the source whose model is
ahead by some nats, and the weights count such items; with tokens a source counts for what its model says better than the
others here and there, which also asks for sources that no item resembles as a whole.

The search is exponentiated gradient, as there. It ends by a certificate: at w the gradient bounds how far f can still fall
(``gap``), so the answer needs no faith in a number of steps. A source may have a limit (so many passes over its text and no
more): the search then stays inside, each step projected by relative entropy.

The predicted gain is cross-fitted: weights from one half of the target's documents are judged on the other half, so that they
do not profit from having seen them; its interval is a bootstrap over documents. Tasks count alike, tokens by their share of
a task's bytes. Memory holds a dozen bytes a piece and source.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import ConfigError, InputError
from training.intervals import Interval, Resampling

Piece = Literal["token", "item"]
LEAST_DOCUMENTS = 10
"""Fewer documents of a target say nothing of an interval."""
GAP = 1e-5
"""Nats a piece by which the weights found may be worse than the best."""
STEPS = 2000


@dataclass(frozen=True)
class Target:
    """What the models say of a target: ``log_probs`` (nats) of each piece by each source, its ``document``, and the bytes
    of each document; ``task`` of each document."""

    log_probs: np.ndarray
    document: np.ndarray
    bytes: np.ndarray
    task: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """What each piece's nats count for: with them, sums are bits per byte, mean over tasks."""
        tasks = int(self.task.max()) + 1
        sizes = np.bincount(self.task, self.bytes, tasks)
        return np.asarray((1 / (tasks * math.log(2) * sizes))[self.task][self.document])

    def of_documents(self, chosen: np.ndarray) -> "Target":
        """Only some documents (a mask); the others weigh nothing."""
        kept = chosen[self.document]
        return Target(self.log_probs[kept], self.document[kept], np.where(chosen, self.bytes, 0), self.task)

    def bits_per_byte(self, weights: np.ndarray) -> float:
        return float(self.shares @ -_mixed(self.log_probs, weights))


@dataclass(frozen=True)
class Fit:
    """The best weights, their bits per byte, and by how much no other weights could be better."""

    weights: np.ndarray
    bits_per_byte: float
    gap: float
    steps: int


def best_weights(target: Target, limits: np.ndarray | None = None, start: np.ndarray | None = None) -> Fit:
    """The weights of the sources that predict the target best, none above its limit. Raises ConfigError where the limits
    leave part of the mixture to nobody."""
    sources = target.log_probs.shape[1]
    limits = np.ones(sources) if limits is None else np.minimum(limits, 1.0)
    if limits.sum() < 1 - 1e-9:
        raise ConfigError(
            f"the limits of all sources together allow {limits.sum():.0%} of the mixture",
            remedy="Train on fewer tokens, or allow more passes.",
        )
    # A piece's largest probability is taken out: it changes no weights, and whole items would vanish otherwise.
    probabilities = np.exp((target.log_probs - target.log_probs.max(1, keepdims=True)).astype(np.float64))
    shares = target.shares
    shares = shares / shares.sum()

    def value(weights: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective (up to a constant) and how much each source would add: its negative gradient."""
        mixed = np.maximum(probabilities @ weights, 1e-300)
        return float(-(shares @ np.log(mixed))), (shares / mixed) @ probabilities

    weights = _projected(np.full(sources, 1 / sources) if start is None else np.maximum(start, 1e-12), limits)
    loss, ratios = value(weights)
    rate, step = 1.0, 0
    while (gap := _gap(weights, ratios, limits)) > GAP and step < STEPS and rate > 1e-9:
        step += 1
        tried = _projected(weights * np.exp(rate * (ratios - ratios.max())), limits)
        found, further = value(tried)
        if found <= loss:
            weights, loss, ratios, rate = tried, found, further, rate * 1.5
        else:
            rate /= 2
    return Fit(weights, target.bits_per_byte(weights), gap, step)


def _mixed(log_probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log-probability of each piece under the mixture; of whole items also where a source without weight is far ahead."""
    inside = log_probs[:, weights > 0].astype(np.float64)
    most = inside.max(1)
    return np.asarray(most + np.log(np.exp(inside - most[:, None]) @ weights[weights > 0]))


def _projected(given: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The nearest mixture within the limits, by relative entropy: all others are scaled alike, those over theirs cut."""
    found = np.maximum(given, 1e-300)
    at_limit = np.zeros(len(found), bool)
    for _ in range(len(found)):
        rest = max(0.0, 1.0 - limits[at_limit].sum())
        scaled = np.where(at_limit, limits, found * (rest / max(found[~at_limit].sum(), 1e-300)))
        over = ~at_limit & (scaled > limits)
        if not over.any():
            break
        at_limit |= over
    return np.asarray(np.minimum(scaled, limits))


def _gap(weights: np.ndarray, ratios: np.ndarray, limits: np.ndarray) -> float:
    """The most that moving to any other mixture can promise: the linear bound of a convex function."""
    order = np.argsort(-ratios)
    room = np.minimum(limits[order], np.maximum(0.0, 1.0 - np.concatenate([[0.0], np.cumsum(limits[order])[:-1]])))
    return float(room @ ratios[order] - weights @ ratios)


def predicted_gain(target: Target, natural: np.ndarray, limits: np.ndarray | None = None, seed: int = 0) -> Interval:
    """Bits per byte that the best weights save over ``natural``, on documents that did not choose them."""
    rng = np.random.default_rng(seed)
    half = np.zeros(len(target.task), bool)
    for task in range(int(target.task.max()) + 1):
        mine = rng.permutation(np.flatnonzero(target.task == task))
        half[mine[: len(mine) // 2]] = True
    saved = np.zeros(len(half))
    for chosen in (half, ~half):
        weights = best_weights(target.of_documents(chosen), limits, start=natural).weights
        judged = ~chosen[target.document]
        rows = target.log_probs[judged]
        better = (_mixed(rows, weights) - _mixed(rows, natural)) / math.log(2)
        saved += np.bincount(target.document[judged], better, len(half))
    return _mean_over_tasks(saved, target, Resampling(seed=seed))


def _mean_over_tasks(bits: np.ndarray, target: Target, how: Resampling) -> Interval:
    """Mean over tasks of ``sum(bits) / sum(bytes)``, documents drawn within their task."""
    rng = np.random.default_rng(how.seed)
    tasks = int(target.task.max()) + 1
    value, drawn = 0.0, np.zeros(how.resamples)
    for task in range(tasks):
        mine = np.flatnonzero(target.task == task)
        draws = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=how.resamples).astype(np.float64)
        value += bits[mine].sum() / target.bytes[mine].sum() / tasks
        drawn += (draws @ bits[mine]) / (draws @ target.bytes[mine]) / tasks
    outside = (1 - how.confidence) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(float(value), float(low), float(high), len(target.task))


def refuse_few(target: str, documents: int) -> None:
    """Raise InputError where a target's documents are too few for an interval."""
    if documents < LEAST_DOCUMENTS:
        raise InputError(
            f"the target {target!r} has {documents} documents: too few to choose weights by",
            remedy=f"Give at least {LEAST_DOCUMENTS} documents a target.",
        )


def read_target(scored: Sequence[tuple[Path, Path]], piece: Piece) -> Target:
    """The target by what each source's model made of it: files ``items.parquet`` and ``tokens.parquet`` of the stage
    ``answers``, a pair a source. Raises InputError where the models did not read the same, or too little."""
    columns, first = [], pq.read_table(scored[0][0])
    lengths: np.ndarray | None = None
    for items, tokens in scored:
        nats = pq.read_table(tokens)["nats"].combine_chunks()
        mine = np.diff(nats.offsets.to_numpy())
        if lengths is None:
            lengths = mine
        if pq.read_table(items, columns=["task", "item"]) != first.select(["task", "item"]) or not np.array_equal(
            mine, lengths
        ):
            raise InputError("the models did not read the same target", where=str(items), remedy="Run mix again.")
        columns.append(-nats.values.to_numpy())
    assert lengths is not None
    keys = pa.table({"task": first["task"], "cluster": first["cluster"]})
    names = dict.fromkeys(zip(keys["task"].to_pylist(), keys["cluster"].to_pylist(), strict=True))
    number = {name: at for at, name in enumerate(names)}
    tasks = {task: at for at, task in enumerate(dict.fromkeys(task for task, _ in names))}
    of_item = np.array(
        [number[key] for key in zip(first["task"].to_pylist(), first["cluster"].to_pylist(), strict=True)]
    )
    task = np.array([tasks[task] for task, _ in names])
    for name, at in tasks.items():
        refuse_few(name, int((task == at).sum()))
    log_probs = np.stack(columns, axis=1).astype(np.float32)
    item = np.repeat(np.arange(len(lengths)), lengths)
    if piece == "item":
        log_probs = np.stack([np.bincount(item, column, len(lengths)) for column in log_probs.T], axis=1)
        item = np.arange(len(lengths))
    sizes = np.bincount(of_item, first["bytes"].to_numpy(), len(names))
    return Target(log_probs, of_item[item], sizes, task)
