"""Rates follow weights, caps and what there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from pipeline.shards.keys import RING, STRIDE, arc, copies, held_bound, held_numbers, ring_keys
from pipeline.shards.mixing import SourceWeight, plan_mixture


def test_without_weights_everything_is_taken_once() -> None:
    plan = plan_mixture({"web": 900, "code": 100}, (), None)
    assert {source: entry.rate for source, entry in plan.items()} == {"web": 1.0, "code": 1.0}
    assert plan["web"].share == pytest.approx(0.9)


def test_a_total_without_weights_shrinks_all_alike() -> None:
    plan = plan_mixture({"web": 900, "code": 100}, (), 500)
    assert plan["web"].rate == plan["code"].rate == 0.5


def test_the_scarcest_source_bounds_the_total() -> None:
    weights = (SourceWeight(source="web", weight=1), SourceWeight(source="code", weight=1))
    plan = plan_mixture({"web": 900, "code": 100}, weights, None)
    assert plan["code"].rate == 1.0 and plan["web"].tokens == pytest.approx(100)


def test_repetition_and_caps() -> None:
    weights = (SourceWeight(source="web"), SourceWeight(source="code", max_epochs=4))
    assert plan_mixture({"web": 900, "code": 100}, weights, None)["code"].rate == pytest.approx(4)
    capped = (SourceWeight(source="web", max_tokens=50), SourceWeight(source="code", max_epochs=4))
    assert plan_mixture({"web": 900, "code": 100}, capped, None)["code"].tokens == pytest.approx(50)


def test_sources_without_a_weight_or_without_documents_do_not_bound_the_rest() -> None:
    weights = (SourceWeight(source="web", weight=3), SourceWeight(source="code", weight=1))
    plan = plan_mixture({"web": 900, "code": 0, "books": 50}, weights, None)
    assert (plan["web"].rate, plan["code"].rate, plan["books"].rate) == (1.0, 0.0, 0.0)


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="'wikpedia', but there are code, web"):
        plan_mixture({"web": 1, "code": 1}, (SourceWeight(source="wikpedia"),), None)
    with pytest.raises(ConfigError, match="twice"):
        plan_mixture({"web": 1}, (SourceWeight(source="web"), SourceWeight(source="web")), None)
    with pytest.raises(ConfigError, match="no source with a weight"):
        plan_mixture({"web": 1}, (SourceWeight(source="web", weight=0),), None)


@settings(max_examples=50, deadline=None)
@given(
    available=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10**9), min_size=1),
    weights=st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 10), min_size=1),
    epochs=st.floats(0.5, 8),
)
def test_shares_are_the_weights_and_no_source_is_repeated_beyond_its_limit(available, weights, epochs) -> None:
    chosen = tuple(
        SourceWeight(source=source, weight=weight, max_epochs=epochs)
        for source, weight in weights.items()
        if source in available
    )
    if not chosen:
        return
    plan = plan_mixture(available, chosen, None)
    whole = sum(entry.weight for entry in chosen)
    for entry in chosen:
        assert plan[entry.source].share == pytest.approx(entry.weight / whole)
        assert plan[entry.source].rate <= epochs * (1 + 1e-9)
    assert max(plan[entry.source].rate for entry in chosen) == pytest.approx(epochs)


@settings(max_examples=100, deadline=None)
@given(key=st.integers(0, RING - 1), buckets=st.integers(1, 50), copy=st.integers(0, 9))
def test_every_repetition_falls_into_exactly_one_bucket(key: int, buckets: int, copy: int) -> None:
    found = [bucket for bucket in range(buckets) if any(low <= key < high for low, high in arc(bucket, buckets, copy))]
    assert len(found) == 1
    place = (key + copy * STRIDE) % RING
    assert found[0] * RING // buckets <= place < (found[0] + 1) * RING // buckets


def test_a_rate_is_met_on_average_and_the_held_out_do_not_know_the_seed() -> None:
    ids = [number.to_bytes(16, "big") for number in range(20_000)]
    _, choice = ring_keys(ids, seed=1)
    for rate in (0.0, 0.3, 1.0, 2.25):
        taken = copies(choice, rate)
        assert taken.mean() == pytest.approx(rate, abs=0.02)
        assert set(np.unique(taken)) <= {int(rate), int(rate) + 1}
    assert (held_numbers(ids) < held_bound(0.05)).mean() == pytest.approx(0.05, abs=0.01)
    assert not (held_numbers(ids) < held_bound(0.0)).any()
