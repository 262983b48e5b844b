"""The learning rate warms up, holds or falls as its shape says, and ends at its floor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.schedule import ScheduleConfig, learning_rate_factor


def curve(total, **settings):
    config = ScheduleConfig(**settings)
    return [learning_rate_factor(config, step, total) for step in range(total)]


@given(
    shape=st.sampled_from(["cosine", "wsd"]),
    warmup=st.integers(0, 50),
    total=st.integers(1, 300),
    floor=st.floats(0, 1),
    decay=st.floats(0.05, 1),
    every=st.sampled_from([0, 40, 100]),
)
def test_always_between_the_floor_and_the_peak(shape, warmup, total, floor, decay, every):
    rates = curve(total, shape=shape, warmup_steps=warmup, min_lr_ratio=floor, decay_fraction=decay, decay_every=every)
    assert all(0 < rate <= 1 for rate in rates[: min(warmup, total - 1)])
    assert all(floor - 1e-12 <= rate <= 1 + 1e-12 for rate in rates[warmup:])
    assert rates[-1] == pytest.approx(floor, abs=1e-12), "the last step reaches the floor, however short the run"


def test_cosine():
    rates = curve(111, warmup_steps=10, min_lr_ratio=0.1)
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(1.0) and rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_wsd_holds_then_decays_to_the_floor():
    rates = curve(100, shape="wsd", warmup_steps=10, min_lr_ratio=0.1, decay_fraction=0.2)
    assert set(rates[9:80]) == {1.0}
    assert rates[80] < 1.0 and rates[-1] == pytest.approx(0.1)


def test_wsd_decays_again_and_returns_to_the_peak():
    rates = curve(100, shape="wsd", warmup_steps=5, min_lr_ratio=0.0, decay_fraction=0.25, decay_every=40)
    assert rates[39] == rates[79] == rates[99] == pytest.approx(0.0)
    assert rates[40] == rates[69] == rates[80] == 1.0
    assert rates[30] < 1.0
