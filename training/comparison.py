"""Which arm makes the better model: paired differences in bits per byte, with intervals that hold what they promise.

An arm is a corpus; it is trained with every seed at every learning rate, and each model is scored on the same items. What
is estimated is the mean over rates and seeds of ``sum(bits) / sum(bytes)`` of an arm less that of the baseline; negative is
better. Two things vary, and other ones would have come out otherwise: the seeds, and the documents (clusters) of the items.

    difference(seed, document) = effect + seed + document + seed × document

* **Documents**: all items of a drawn document go together, both arms on the same documents. A bootstrap, widened for few
  documents by sqrt(C / (C - 1)) and t against normal quantiles (Hesterberg, "What Teachers Should Know About the
  Bootstrap", 2015: the expanded percentile interval).
* **Seeds**: of three seeds a bootstrap sees two thirds of the variance and no tails: simulated, its 95 % intervals cover
  67 %. So the noise of a run is pooled over all arms that share the seeds (residuals of arm + seed; the arms differ in
  their text, not in how noisily a run of that length ends) and enters as t with (arms - 1)(seeds - 1) degrees of freedom.
  Arms with seeds of their own, as an A/A arm has, are compared as independent samples. Pooled is also what pairs of arms vary
  by: those that share most documents, and so their order, less than this says, the control and foreign corpora a little more.
* Their sum would count seed × document twice: that part is estimated and taken from the documents' share, which is how a
  crossed design is added up (Owen, "The pigeonhole bootstrap", 2007; Cameron, Gelbach and Miller, 2011).

The rates are a fixed choice, not a sample: effects are means over them, and an arm that is better at one and worse at another
is marked (``Effect.by_rate``). Tasks count alike in ``all``, and their documents are drawn apart.

A task on which the known-bad ``control`` cannot be told from ``same`` (the A/A arm: the baseline's corpus, other seeds) is a
coin flip at this budget and left out of ``all``. If every task is one, ``all`` is over all of them and no verdict is given.
The A/A arm itself must not be judged by tasks chosen with its own luck: where it happened to do well, the control looks worse
than it, and simulated with a weak control, ten to fifteen such verdicts in a hundred called it better. Its tasks are those on
which the control is told from the mean of it and the baseline, of which their difference is independent.

Verdicts hold the family-wise error at 5 % over all arms but A/A (Holm, 1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import ceil, sqrt
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri, stdtr, stdtrit

from infra.errors import InputError

ALL = "all"
ALPHA, POWER = 0.05, 0.8
_BOTH = ""
"""The mean of the baseline and the A/A arm among the arms."""
Word = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Effect:
    """Bits per byte of an arm less the baseline's on one task, or the mean over tasks (``all``), with a 95 % interval."""

    arm: str
    task: str
    delta: float
    low: float
    high: float
    items: int
    seeds: int
    by_rate: tuple[tuple[float, float], ...] = ()
    """(learning rate, difference at that rate)."""


@dataclass(frozen=True)
class Verdict:
    """The answer for one arm. ``p_holm`` is corrected for the number of arms, the interval is not."""

    arm: str
    word: Word
    delta: float
    low: float
    high: float
    p: float
    p_holm: float
    tokens_to_tell: int | None
    """Where it cannot be told: trained tokens of this arm, over all seeds and rates, that would tell a difference of this
    size four times in five. None: it is told, or no number of seeds would do (more documents might)."""


@dataclass(frozen=True)
class Comparison:
    """All differences and verdicts; ``minimum_detectable_effect`` is the smallest true difference that is told four times
    in five, all arms being asked at once, of the arm whose difference varies most (the A/A arm, whose seeds are its own, and
    the control apart)."""

    effects: tuple[Effect, ...]
    verdicts: tuple[Verdict, ...]
    coin_flips: tuple[str, ...]
    minimum_detectable_effect: float


def compare(
    rows: pa.Table, *, baseline: str, same: str, control: str, resamples: int = 2000, seed: int = 0, tokens: int
) -> Comparison:
    """Compare every arm with ``baseline``.

    ``rows``: columns ``arm, seed, rate, task, item, cluster, bits, bytes``, one row for each item and model. ``same`` is the
    A/A arm, ``control`` the known-bad one, ``tokens`` what each model was trained on. Raises InputError where an arm, a run
    or an item is missing.
    """
    runs = _Runs.of(rows)
    for arm in (baseline, same, control):
        if arm not in runs.arms:
            raise InputError(f"there is no arm {arm!r} among the rows", where=f"arms: {', '.join(runs.arms)}")
    runs = runs.with_mean(baseline, same)
    draws = _document_draws(runs, resamples, seed)
    names = list(runs.tasks)

    def difference(arm: str, against: str, tasks: Sequence[str]) -> _Difference:
        return _difference(runs, draws, runs.arms.index(arm), runs.arms.index(against), [names.index(n) for n in tasks])

    def told(against: str) -> list[str]:
        return [task for task in names if difference(control, against, [task]).excludes_zero]

    kept, kept_of_same = told(same), told(_BOTH)
    effects: list[Effect] = []
    overall: dict[str, _Difference] = {}
    for arm in runs.arms:
        if arm in (baseline, _BOTH):
            continue
        overall[arm] = difference(arm, baseline, (kept_of_same if arm == same else kept) or names)
        for task in names:
            effects.append(difference(arm, baseline, [task]).effect(arm, task))
        effects.append(overall[arm].effect(arm, ALL))
    corrected = _holm({arm: found.p for arm, found in overall.items() if arm != same})
    corrected[same] = overall[same].p
    family = max(1, len(overall) - 1)
    verdicts = tuple(
        _verdict(
            arm,
            found,
            corrected[arm],
            bool(kept_of_same if arm == same else kept),
            family,
            tokens * len(runs.rates),
        )
        for arm, found in overall.items()
    )
    coin_flips = tuple(task for task in names if task not in kept)
    asked = [found for arm, found in overall.items() if arm not in (same, control)] or [overall[control]]
    return Comparison(tuple(effects), verdicts, coin_flips, max(each.detectable(family) for each in asked))


def _verdict(arm: str, found: "_Difference", p_holm: float, separates: bool, family: int, tokens: int) -> Verdict:
    """``separates``: at least one task is no coin flip. ``tokens``: of one seed at all rates."""
    word: Word = "cannot tell"
    if separates and p_holm <= ALPHA:
        word = "better" if found.delta < 0 else "worse"
    seeds = found.seeds_to_tell(family) if word == "cannot tell" else None
    return Verdict(arm, word, found.delta, *found.interval, found.p, p_holm, None if seeds is None else seeds * tokens)


def _holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down p-values."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, arm in enumerate(sorted(values, key=lambda arm: values[arm])):
        least = max(least, min(1.0, values[arm] * (len(values) - rank)))
        corrected[arm] = least
    return corrected


# ---- one difference --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Difference:
    """A difference and what it varies by. ``documents`` are deviations, one a resample."""

    delta: float
    by_rate: tuple[tuple[float, float], ...]
    documents: np.ndarray
    seed_variance: float
    freedom: int
    items: int
    seeds: int

    @cached_property
    def interval(self) -> tuple[float, float]:
        noise = _scattered_t(self.freedom, len(self.documents)) * sqrt(self.seed_variance)
        low, high = np.quantile(self.delta + self.documents + noise, [ALPHA / 2, 1 - ALPHA / 2]).tolist()
        return low, high

    @property
    def excludes_zero(self) -> bool:
        low, high = self.interval
        return low > 0 or high < 0

    @cached_property
    def p(self) -> float:
        """Two-sided: how much of the same distribution lies beyond zero, the seeds' part integrated and not drawn."""
        centres = self.delta + self.documents
        if self.seed_variance > 0:
            below = float(np.mean(stdtr(self.freedom, -centres / sqrt(self.seed_variance))))
        else:
            below = float(np.mean((centres < 0) + 0.5 * (centres == 0)))
        return min(1.0, 2 * min(below, 1 - below))

    def detectable(self, family: int) -> float:
        """``(t of the test + t of the power) × standard error``, the test being Bonferroni's for ``family`` arms."""
        spread = float(np.var(self.documents))
        variance = self.seed_variance + spread
        # Welch and Satterthwaite: the documents' part is known as if from many samples.
        freedom = min(1e6, self.freedom * (variance / self.seed_variance) ** 2) if self.seed_variance else 1e6
        return float((stdtrit(freedom, 1 - ALPHA / 2 / family) + stdtrit(freedom, POWER)) * sqrt(variance))

    def seeds_to_tell(self, family: int) -> int | None:
        """Seeds S with ``|delta| = (z of the test + z of the power) × sqrt(run noise / S + documents)``: more runs of the
        same length make the seeds' part smaller, never the documents'."""
        error: float = self.delta / (ndtri(1 - ALPHA / 2 / family) + ndtri(POWER))
        wanted = error**2 - float(np.var(self.documents))
        if wanted <= 0:
            return None
        return max(self.seeds + 1, ceil(self.seed_variance * self.seeds / wanted))

    def effect(self, arm: str, task: str) -> Effect:
        return Effect(arm, task, self.delta, *self.interval, self.items, self.seeds, self.by_rate)


@lru_cache(maxsize=32)
def _scattered_t(freedom: int, number: int) -> np.ndarray:
    """``number`` equally likely values of Student's t in a fixed random order."""
    values: np.ndarray = stdtrit(freedom, (np.arange(number) + 0.5) / number)
    return np.random.default_rng(number).permutation(values)


# ---- the runs as arrays ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """Bits of every run by document: ``bits[arm, rate, seed, document]``; documents of a task lie side by side."""

    arms: list[str]
    rates: list[float]
    seeds: list[tuple[int, ...]]
    """Of each arm, in order: runs are paired by it."""
    tasks: Mapping[str, slice]
    bits: np.ndarray
    bytes: np.ndarray
    items: Mapping[str, int]

    @classmethod
    def of(cls, rows: pa.Table) -> "_Runs":
        if not rows.num_rows:
            raise InputError("there are no rows to compare")
        arms, arm = _codes(rows["arm"])
        rates, rate = _codes(rows["rate"])
        seeds, place = _seed_places(rows["seed"].to_numpy(), arm, arms)
        tasks, task = _codes(rows["task"])
        item, item_names = _within(task, rows["item"])
        shape = (len(arms), len(rates), len(seeds[0]), len(item_names))
        cells = np.ravel_multi_index((arm, rate, place, item), shape)
        filled = np.bincount(cells, minlength=int(np.prod(shape)))
        if (filled != 1).any():
            at = np.unravel_index(int(np.argmax(filled != 1)), shape)
            times = "more than once" if filled[np.argmax(filled != 1)] else "not"
            raise InputError(
                f"arm {arms[at[0]]!r} at rate {rates[at[1]]} with seed {seeds[at[0]][at[2]]} has item "
                f"{item_names[at[3]]!r} {times}",
                remedy="Score every model on the same items once, with every seed at every rate.",
            )
        bits = np.empty(shape)
        bits.ravel()[cells] = rows["bits"].to_numpy()
        # What an item is does not depend on the model: the first run says it for all.
        _, first = np.unique(item, return_index=True)
        length = rows["bytes"].to_numpy()
        if (length != length[first][item]).any():
            raise InputError(
                "an item has not the same bytes in all runs", remedy="Score every model on the same files."
            )
        group, _ = _within(task[first], rows["cluster"].take(first))
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        of_task = task[first][order][starts]
        edges = {name: np.flatnonzero(of_task == code) for code, name in enumerate(tasks)}
        lonely = next((name for name, found in edges.items() if len(found) < 2), None)
        if lonely is not None:
            raise InputError(
                f"all items of task {lonely!r} are of one document: nothing says how another one would fare",
                remedy="Give the evaluation more documents, or another cluster field.",
            )
        return cls(
            arms,
            rates,
            seeds,
            {name: slice(int(found[0]), int(found[-1]) + 1) for name, found in edges.items()},
            np.add.reduceat(bits[..., order], starts, axis=-1),
            np.add.reduceat(length[first][order].astype(np.float64), starts),
            {name: int((task[first] == code).sum()) for code, name in enumerate(tasks)},
        )

    def with_mean(self, *arms: str) -> "_Runs":
        """With an arm more: the mean of some arms, run by run, of which no other arm has the seeds."""
        some = self.bits[[self.arms.index(arm) for arm in arms]].mean(0, keepdims=True)
        return replace(self, arms=[*self.arms, _BOTH], seeds=[*self.seeds, ()], bits=np.concatenate([self.bits, some]))


def _codes(column: pa.ChunkedArray) -> tuple[list, np.ndarray]:
    """The distinct values in order, and which of them each row has."""
    values = pc.unique(column).sort()
    return values.to_pylist(), pc.index_in(column, values).to_numpy()


def _within(task: np.ndarray, column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes of a column's values, the same value in two tasks being two; ordered by task."""
    values, code = _codes(column)
    both, found = np.unique(task.astype(np.int64) * len(values) + code, return_inverse=True)
    return found, [values[pair % len(values)] for pair in both]


def _seed_places(seed: np.ndarray, arm: np.ndarray, arms: list[str]) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Each arm's seeds in order, and the place of each row's seed among them."""
    place = np.empty(len(seed), dtype=np.int64)
    every = []
    for code in range(len(arms)):
        own, place[arm == code] = np.unique(seed[arm == code], return_inverse=True)
        every.append(tuple(int(value) for value in own))
    if len({len(own) for own in every}) > 1:
        told = ", ".join(f"{name} {len(own)}" for name, own in zip(arms, every, strict=True))
        raise InputError(f"the arms have different numbers of seeds ({told})", remedy="Train all with equally many.")
    if len(every[0]) < 2:
        raise InputError("one seed says nothing of how much seeds differ", remedy="Train every arm with two or more.")
    return every, place


def _document_draws(runs: _Runs, resamples: int, seed: int) -> list[np.ndarray]:
    """For each task, how far the mean of every arm (``[resamples, arms]``, bits per byte) moves on other documents.

    A ratio moves by its linear part, ``(bits - ratio × bytes) / sum of bytes``, which is additive: the deviation of a
    difference is the difference of deviations, so one pass over the draws serves every pair of arms.
    """
    random = np.random.default_rng(seed)
    found = []
    for part in runs.tasks.values():
        weights = runs.bytes[part]
        mean = runs.bits[..., part].mean((1, 2))
        residual = (mean - mean.sum(1, keepdims=True) / weights.sum() * weights) / weights.sum()
        count = len(weights)
        drawn = [
            random.multinomial(count, np.full(count, 1 / count), size=min(256, resamples - start)) @ residual.T
            for start in range(0, resamples, 256)
        ]
        widened = sqrt(count / (count - 1)) * stdtrit(count - 1, 1 - ALPHA / 2) / ndtri(1 - ALPHA / 2)
        found.append(np.concatenate(drawn) * widened)
    return found


def _difference(runs: _Runs, draws: list[np.ndarray], arm: int, against: int, tasks: list[int]) -> _Difference:
    """Arm ``arm`` less arm ``against``, mean over ``tasks``."""
    slices = list(runs.tasks.values())
    names = list(runs.tasks)
    documents = np.zeros(len(draws[0]))
    whole = shared = 0.0
    levels = np.zeros(runs.bits.shape[:3])
    for task in tasks:
        part, weights = slices[task], runs.bytes[slices[task]]
        total = weights.sum()
        levels += runs.bits[..., part].sum(-1) / total / len(tasks)
        paired = (runs.bits[arm, :, :, part] - runs.bits[against, :, :, part]).mean(0)
        residual = (paired - paired.sum(1, keepdims=True) / total * weights) / total
        seeds, count = residual.shape
        scale = count / (count - 1) / len(tasks) ** 2
        whole += (residual.mean(0) ** 2).sum() * scale
        shared += residual.var(0, ddof=1).sum() / seeds * scale
        documents += (draws[task][:, arm] - draws[task][:, against]) / len(tasks)
    # The seeds' part holds seed × document already.
    documents = documents * sqrt(max(0.0, 1 - shared / whole) if whole else 0.0)
    gap = (levels[arm] - levels[against]).mean(1)
    variance, freedom = _seed_noise(runs, levels.mean(1), arm, against)
    return _Difference(
        float(gap.mean()),
        tuple(zip(runs.rates, gap.tolist(), strict=True)),
        documents - documents.mean(),
        variance,
        freedom,
        sum(runs.items[names[task]] for task in tasks),
        runs.bits.shape[2],
    )


def _seed_noise(runs: _Runs, levels: np.ndarray, arm: int, against: int) -> tuple[float, int]:
    """Variance of the difference of two arms' means over seeds, from ``levels[arm, seed]``, and its degrees of freedom."""
    seeds = levels.shape[1]
    if runs.seeds[arm] == runs.seeds[against]:
        pool = levels[[own == runs.seeds[arm] for own in runs.seeds]]
        residual = pool - pool.mean(1, keepdims=True) - pool.mean(0) + pool.mean()
        freedom = (len(pool) - 1) * (seeds - 1)
    else:
        pool = levels[[arm, against]]
        residual = pool - pool.mean(1, keepdims=True)
        freedom = 2 * (seeds - 1)
    return float(2 * (residual**2).sum() / freedom / seeds), freedom
