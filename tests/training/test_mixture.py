"""Weights of sources on targets whose best mixture is known."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, InputError
from training.mixture import GAP, Target, best_weights, predicted_gain, read_target

EVEN = np.full(3, 1 / 3)


def drawn(truth: np.ndarray, models: np.ndarray, documents: int = 60, length: int = 200, seed: int = 0) -> Target:
    """Tokens of a source that is the mixture ``truth`` of ``models`` (a row of token probabilities each)."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(models.shape[1], size=documents * length, p=truth @ models)
    document = np.repeat(np.arange(documents), length)
    return Target(
        np.log(models[:, tokens]).T.astype(np.float32),
        document,
        np.full(documents, 4 * length),
        np.zeros(documents, int),
    )


def some_models(sources: int = 3, vocabulary: int = 40, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(vocabulary, 0.2), size=sources) * 0.98 + 0.02 / vocabulary


def test_the_mixture_that_the_target_is_made_of_is_found() -> None:
    truth = np.array([0.6, 0.3, 0.1])
    fit = best_weights(drawn(truth, some_models()))
    assert fit.weights == pytest.approx(truth, abs=0.03) and fit.gap <= GAP
    entropy = -(truth @ some_models()) @ np.log2(truth @ some_models()) / 4
    assert fit.bits_per_byte == pytest.approx(entropy, rel=0.02)


def test_a_source_that_says_nothing_gets_nothing_and_the_conditions_of_the_optimum_hold() -> None:
    models = some_models()
    models[2] = 1 / models.shape[1]
    target = drawn(np.array([0.7, 0.3, 0.0]), models)
    fit = best_weights(target)
    assert fit.weights[2] < 0.02
    # Karush-Kuhn-Tucker: what a source would add is 1 where it has weight, and at most 1 where it has none.
    inside = np.exp(target.log_probs)
    added = (inside / (inside @ fit.weights)[:, None]).mean(0)
    assert added[:2] == pytest.approx(1, abs=2e-3) and added[2] <= 1 + 2e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_no_other_weights_are_better_than_the_certificate_allows(seed: int, sources: int) -> None:
    rng = np.random.default_rng(seed)
    target = drawn(rng.dirichlet(np.ones(sources)), some_models(sources, 12, seed), documents=20, length=30, seed=seed)
    limits = np.maximum(rng.uniform(0.1, 1, sources), 1 / sources)
    for bound in (np.ones(sources), limits):
        fit = best_weights(target, bound)
        assert fit.weights.sum() == pytest.approx(1) and (fit.weights <= bound + 1e-9).all()
        nats = fit.bits_per_byte * 4 * math.log(2)
        for other in rng.dirichlet(np.ones(sources), size=30):
            if (other <= bound).all():
                assert target.bits_per_byte(other) * 4 * math.log(2) >= nats - fit.gap - 1e-4
    assert best_weights(target, start=rng.dirichlet(np.ones(sources))).bits_per_byte == pytest.approx(
        best_weights(target).bits_per_byte, abs=1e-4
    )


def test_whole_items_are_judged_by_a_source_however_far_it_is_behind() -> None:
    target = Target(
        np.array([[-10.0, -4000.0], [-20.0, -10.0]]), np.array([0, 1]), np.array([10, 10]), np.array([0, 0])
    )
    assert target.bits_per_byte(np.array([0.0, 1.0])) == pytest.approx(4010 / 20 / math.log(2))
    assert best_weights(target).weights == pytest.approx([0.5, 0.5], abs=0.01), "an item each"


def test_a_limit_holds_and_the_rest_goes_where_it_helps_most() -> None:
    truth = np.array([0.8, 0.15, 0.05])
    target = drawn(truth, some_models())
    fit = best_weights(target, np.array([0.4, 1.0, 1.0]))
    assert fit.weights[0] == pytest.approx(0.4) and fit.weights[1] > fit.weights[2]
    assert fit.bits_per_byte > best_weights(target).bits_per_byte
    with pytest.raises(ConfigError, match="allow 90% of the mixture"):
        best_weights(target, np.array([0.3, 0.3, 0.3]))


def test_the_gain_is_the_true_one_and_its_interval_covers_it() -> None:
    truth, models = np.array([0.7, 0.2, 0.1]), some_models()
    true = ((truth @ models) @ (np.log2(truth @ models) - np.log2(EVEN @ models))) / 4
    found = [predicted_gain(drawn(truth, models, seed=seed), EVEN) for seed in range(40)]
    assert np.mean([each.value for each in found]) == pytest.approx(true, rel=0.1)
    assert np.mean([each.low <= true <= each.high for each in found]) >= 0.85
    natural = [predicted_gain(drawn(EVEN, models, seed=seed), EVEN) for seed in range(40)]
    assert np.mean([each.low > 0 for each in natural]) <= 0.1, "nothing to gain is not found to be gained"
    assert np.mean([each.value for each in natural]) <= 0, "weights do not profit from the documents that chose them"


def test_tasks_count_alike_whatever_their_size() -> None:
    models = some_models()
    first, second = drawn(np.eye(3)[0], models, documents=90), drawn(np.eye(3)[1], models, documents=10, seed=5)
    both = Target(
        np.concatenate([first.log_probs, second.log_probs]),
        np.concatenate([first.document, second.document + 90]),
        np.concatenate([first.bytes, second.bytes]),
        np.concatenate([first.task, second.task + 1]),
    )
    weights = best_weights(both).weights
    assert weights[0] == pytest.approx(weights[1], abs=0.08) and weights[2] < 0.05
    assert both.bits_per_byte(weights) == pytest.approx(
        (first.bits_per_byte(weights) + second.bits_per_byte(weights)) / 2
    )


def written(folder, nats: list[list[float]], clusters: list[str]) -> tuple:
    folder.mkdir()
    rows = len(nats)
    items = {
        "task": ["t"] * rows, "domain": ["prose"] * rows, "item": [str(n) for n in range(rows)], "cluster": clusters,
        "bits": [sum(each) for each in nats], "bytes": [10] * rows,
    }  # fmt: skip
    pq.write_table(pa.table(items), folder / "items.parquet")
    pq.write_table(pa.table({"nats": pa.array(nats, pa.large_list(pa.float32()))}), folder / "tokens.parquet")
    return folder / "items.parquet", folder / "tokens.parquet"


def test_files_of_every_model_become_pieces(tmp_path) -> None:
    nats = [[0.5, 1.0]] + [[1.0, 2.0, 3.0]] * 11
    clusters = ["a", *("abcdefghijk")]
    scored = [
        written(tmp_path / "one", nats, clusters),
        written(tmp_path / "two", [[1.0] * len(x) for x in nats], clusters),
    ]
    target = read_target(scored, "token")
    assert target.log_probs.shape == (35, 2) and target.log_probs[:3].tolist() == [
        [-0.5, -1.0],
        [-1.0, -1.0],
        [-1.0, -1.0],
    ]
    assert target.document.tolist()[:5] == [0] * 5 and target.bytes.tolist() == [20] + [10] * 10
    whole = read_target(scored, "item")
    assert (
        whole.log_probs[:2].tolist() == [[-1.5, -2.0], [-6.0, -3.0]] and whole.bytes.tolist() == target.bytes.tolist()
    )
    other = written(tmp_path / "other", [[1.0]] * 12, clusters)
    with pytest.raises(InputError, match="did not read the same target"):
        read_target([scored[0], other], "token")
    few = written(tmp_path / "few", nats, ["a"] * 12)
    with pytest.raises(InputError, match="1 documents: too few"):
        read_target([few, few], "token")
