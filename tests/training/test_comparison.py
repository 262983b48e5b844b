"""Arms compared on simulated runs whose true differences are known."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import InputError
from training.comparison import Comparison, Effect, compare

RATES = (0.001, 0.003)
BASE, SAME, BAD = "base", "same", "bad"


@dataclass(frozen=True)
class World:
    """True differences from ``base`` in bits per byte, and standard deviations of what a run and a document add."""

    deltas: dict[str, float]
    seed: float = 0.003
    document: float = 0.05
    seed_document: float = 0.1
    seeds: int = 3
    clusters: int = 60
    per_cluster: int = 2
    tasks: int = 2
    bad: float = 0.2
    """What the known-bad control is worse by."""
    silent: tuple[str, ...] = ()
    """Tasks on which no arm differs."""

    @property
    def arms(self) -> list[str]:
        return [BASE, SAME, BAD, *self.deltas]

    def rows(self, number: int) -> pa.Table:
        random = np.random.default_rng(number)
        truth = np.array([{BASE: 0.0, SAME: 0.0, BAD: self.bad, **self.deltas}[arm] for arm in self.arms])
        cluster = np.repeat(np.arange(self.clusters), self.per_cluster)
        runs = random.normal(0, self.seed, (len(self.arms), self.seeds))[..., None, None]
        bits, lengths = [], []
        for task in range(self.tasks):
            own = (truth if f"task{task}" not in self.silent else np.zeros(len(truth)))[:, None]
            document = own + random.normal(0, self.document, (len(self.arms), self.clusters)) * (own != 0)
            both = random.normal(0, self.seed_document, (len(self.arms), self.seeds, self.clusters))
            level = random.normal(2.5, 0.5, len(cluster)) + runs + (document[:, None] + both)[..., None, cluster]
            lengths.append(np.broadcast_to(random.integers(50, 400, len(cluster)), (*runs.shape[:2], 2, len(cluster))))
            bits.append(level * lengths[-1])
        return (
            frame(tuple(self.arms), self.seeds, self.clusters, self.per_cluster, self.tasks)
            .append_column("bits", pa.array(np.concatenate(bits, axis=None)))
            .append_column("bytes", pa.array(np.concatenate(lengths, axis=None)))
        )

    def compared(self, number: int, resamples: int = 400) -> Comparison:
        return compare(self.rows(number), baseline=BASE, same=SAME, control=BAD, resamples=resamples, tokens=1000)


@lru_cache(maxsize=1)
def frame(arms: tuple[str, ...], seeds: int, clusters: int, per_cluster: int, tasks: int) -> pa.Table:
    """Which model and item each row is of."""
    size = (tasks, len(arms), seeds, len(RATES), clusters * per_cluster)
    task, arm, seed, rate, item = (axis.ravel() for axis in np.indices(size))
    return pa.table(
        {
            "arm": pa.array(np.array(arms)[arm]),
            "seed": seed + 100 * (arm == arms.index(SAME)),
            "rate": np.array(RATES)[rate],
            "task": pa.array(np.char.mod("task%d", task)),
            "item": pa.array(np.char.mod("%d", item)),
            "cluster": pa.array(np.char.mod("d%d", item // per_cluster)),
        }
    )


def effect(found: Comparison, arm: str, task: str = "all") -> Effect:
    return next(each for each in found.effects if (each.arm, each.task) == (arm, task))


def word(found: Comparison, arm: str) -> str:
    return next(each.word for each in found.verdicts if each.arm == arm)


def test_difference_is_the_ratio_of_sums_averaged_over_runs_and_tasks() -> None:
    rows = pa.Table.from_pylist(
        [
            {"arm": arm, "seed": seed, "rate": 0.1, "task": task, "item": str(item), "cluster": str(item),
             "bits": float(bits + 10 * (arm == "x") * (item == 1) + 3 * seed), "bytes": size}
            for arm in (BASE, SAME, BAD, "x")
            for seed in (0, 1)
            for task, sizes in (("a", (10, 30)), ("b", (50, 50)))
            for item, (size, bits) in enumerate(zip(sizes, (20, 60), strict=True))
        ]
    )  # fmt: skip
    found = compare(rows, baseline=BASE, same=SAME, control=BAD, resamples=100, tokens=1)
    assert effect(found, "x", "a").delta == pytest.approx(10 / 40)
    assert effect(found, "x", "b").delta == pytest.approx(10 / 100)
    assert effect(found, "x").delta == pytest.approx((10 / 40 + 10 / 100) / 2)
    assert (effect(found, "x", "a").items, effect(found, "x").items, effect(found, "x").seeds) == (2, 4, 2)


@pytest.mark.parametrize(
    "world",
    [
        World({"x": -0.01}, tasks=1),
        World({"x": -0.01}, seed=0.006, document=0.0, seed_document=0.0, tasks=1, clusters=10),
    ],
    ids=["seeds and documents", "seeds alone"],
)
def test_intervals_cover_and_the_a_a_arm_rarely_alarms(world: World) -> None:
    found = [world.compared(number, resamples=200) for number in range(500)]
    covered = np.mean([effect(each, "x").low <= -0.01 <= effect(each, "x").high for each in found])
    assert 0.93 <= covered <= 0.97
    alarms = np.mean([word(each, SAME) != "cannot tell" for each in found])
    # 5 % and what 500 simulations of it scatter by.
    assert alarms <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 500)


WEAK = World({}, seed=0.006, document=0.0, bad=0.04, clusters=12, per_cluster=1, tasks=4)
"""Few items, and a control that is told from the A/A arm on some of the tasks only."""


def test_tasks_are_not_chosen_by_the_luck_of_the_a_a_arm() -> None:
    found = [WEAK.compared(number, resamples=100) for number in range(200)]
    assert 0.3 < np.mean([len(each.coin_flips) < WEAK.tasks for each in found]) < 0.9
    deltas = np.array([effect(each, SAME).delta for each in found])
    assert abs(deltas.mean()) < 3 * deltas.std() / np.sqrt(len(deltas))
    words = [word(each, SAME) for each in found]
    assert len(found) - words.count("cannot tell") <= len(found) * (0.05 + 2 * np.sqrt(0.05 * 0.95 / len(found)))


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_difference_of_the_stated_size_is_told_four_times_in_five(seeds: int) -> None:
    silent = World({"x": 0.0}, document=0.0, seeds=seeds)
    size = float(np.mean([silent.compared(number).minimum_detectable_effect for number in range(25)]))
    told = [word(World({"x": size}, document=0.0, seeds=seeds).compared(number), "x") for number in range(100)]
    assert told.count("better") == 0
    assert 0.7 <= told.count("worse") / 100 <= 0.95


def test_seeds_to_tell_are_enough() -> None:
    """A difference too small for three seeds is told with as many as were asked for."""
    few = World({"x": 0.004}, seed=0.003, document=0.002, seed_document=0.02)
    asked = [each.tokens_to_tell for n in range(20) for each in few.compared(n).verdicts if each.arm == "x"]
    seeds = int(np.median([tokens for tokens in asked if tokens]) / (1000 * len(RATES)))
    assert 3 < seeds < 40
    enough = World({"x": 0.004}, seed=0.003, document=0.002, seed_document=0.02, seeds=seeds)
    assert sum(word(enough.compared(n), "x") == "worse" for n in range(20)) >= 12


def test_task_that_does_not_see_the_control_is_a_coin_flip_and_left_out() -> None:
    found = World({"x": 0.1}, tasks=3, silent=("task1",)).compared(3)
    assert found.coin_flips == ("task1",)
    kept = [effect(found, "x", task).delta for task in ("task0", "task2")]
    assert effect(found, "x").delta == pytest.approx(np.mean(kept))
    assert word(found, "x") == "worse"


def test_no_verdict_where_every_task_is_a_coin_flip() -> None:
    found = World({"x": -0.3}, tasks=1, silent=("task0",)).compared(1)
    assert found.coin_flips == ("task0",)
    assert {each.word for each in found.verdicts} == {"cannot tell"}


def test_many_arms_without_a_difference_alarm_together_as_rarely_as_one() -> None:
    world = World({f"x{n}": 0.0 for n in range(10)}, tasks=1, clusters=30)
    found = [world.compared(number, resamples=200) for number in range(100)]
    alarms = [any(each.word != "cannot tell" for each in one.verdicts if each.arm.startswith("x")) for one in found]
    single = [any(each.p < 0.05 for each in one.verdicts if each.arm.startswith("x")) for one in found]
    assert np.mean(alarms) <= 0.1 < np.mean(single)


def test_rates_that_disagree_are_told() -> None:
    rows = World({"x": 0.0}, seed=0.001, seed_document=0.0, document=0.0).rows(1)
    sign = np.where(rows["rate"].to_numpy() == RATES[0], 0.05, -0.05) * (np.array(rows["arm"].to_pylist()) == "x")
    bits = rows["bits"].to_numpy() + sign * rows["bytes"].to_numpy()
    rows = rows.set_column(rows.column_names.index("bits"), "bits", pa.array(bits))
    found = effect(compare(rows, baseline=BASE, same=SAME, control=BAD, resamples=200, tokens=1), "x")
    assert found.by_rate[1][1] < 0 < found.by_rate[0][1]
    assert [rate for rate, _ in found.by_rate] == list(RATES)
    assert found.by_rate[0][1] == pytest.approx(0.05, abs=0.01)


def test_order_of_rows_decides_nothing() -> None:
    rows = World({"x": 0.01}).rows(5)
    shuffled = rows.take(np.random.default_rng(0).permutation(rows.num_rows))
    first, second = (
        compare(each, baseline=BASE, same=SAME, control=BAD, resamples=100, seed=1, tokens=1)
        for each in (rows, shuffled)
    )
    assert effect(first, "x").low == pytest.approx(effect(second, "x").low, abs=1e-12)
    assert first.coin_flips == second.coin_flips


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows.slice(1), "has item '0' not"),
        (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "has item '0' more than once"),
        (lambda rows: rows.filter(pa.compute.not_equal(rows["seed"], 101)), "different numbers of seeds"),
        (lambda rows: rows.filter(pa.compute.equal(pa.compute.bit_wise_and(rows["seed"], 3), 0)), "one seed says nothing"),
        (lambda rows: rows.set_column(5, "cluster", pa.array(["c"] * rows.num_rows)), "are of one document"),
        (lambda rows: rows.filter(pa.compute.not_equal(rows["arm"], SAME)), "there is no arm 'same'"),
        (lambda rows: rows.slice(0, 0), "no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_a_sentence(change, sentence: str) -> None:
    rows = change(World({"x": 0.01}).rows(0))
    with pytest.raises(InputError, match=sentence):
        compare(rows, baseline=BASE, same=SAME, control=BAD, resamples=100, tokens=1)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_noise", [0.0, 0.002, 0.01])
@pytest.mark.parametrize("document", [0.0, 0.05])
def test_campaign_of_coverage(seeds: int, seed_noise: float, document: float) -> None:
    world = World({"x": -0.01, "y": 0.02}, seed=seed_noise, document=document, seeds=seeds)
    found = [world.compared(number) for number in range(1000)]
    for arm, truth in (("x", -0.01), ("y", 0.02), (SAME, 0.0), (BAD, 0.2)):
        covered = np.mean([effect(each, arm).low <= truth <= effect(each, arm).high for each in found])
        assert covered >= 0.93, (arm, covered)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("bad", [0.01, 0.02, 0.04])
@pytest.mark.parametrize(("document", "seed_document"), [(0.0, 0.1), (0.03, 0.05)])
def test_campaign_of_weak_controls(seeds: int, bad: float, document: float, seed_document: float) -> None:
    world = replace(
        WEAK, deltas={"x": 0.0}, seeds=seeds, bad=bad, document=document, seed_document=seed_document, per_cluster=2
    )
    found = [world.compared(number, resamples=200) for number in range(1000)]
    for arm in (SAME, "x"):
        covered = np.mean([effect(each, arm).low <= 0 <= effect(each, arm).high for each in found])
        assert covered >= 0.93, (arm, covered)
        words = [word(each, arm) for each in found]
        for verdict in ("better", "worse"):
            assert words.count(verdict) <= 0.025 * 1000 + 2 * np.sqrt(0.025 * 0.975 * 1000), (arm, verdict)
