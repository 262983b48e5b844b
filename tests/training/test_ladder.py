"""A ladder recovers the law that its points follow, and is honest about what it does not know."""

import numpy as np
import pytest

from infra.errors import ConfigError, InputError
from training.ladder import Point, fit, predict, rungs


def points(noise: float = 0.0, seed: int = 0, rungs: int = 6) -> list[Point]:
    """loss = 0.8 + 1.2 (C / 1e14)^-0.15"""
    random = np.random.default_rng(seed)
    compute = 1e14 * 4.0 ** np.arange(rungs)
    return [Point(c, 0.8 + 1.2 * (c / 1e14) ** -0.15 + random.normal(0, noise)) for c in compute]


def truth(flops: float) -> float:
    return float(0.8 + 1.2 * (flops / 1e14) ** -0.15)


def test_the_law_is_recovered() -> None:
    law = fit(points())
    assert law.floor == pytest.approx(0.8, abs=0.02)
    assert law.slope == pytest.approx(0.15, rel=0.02)
    assert predict(law, 1e19).value == pytest.approx(truth(1e19), abs=0.01)


def test_the_interval_covers_the_truth() -> None:
    target = 1e14 * 4.0**8
    covered = 0
    for seed in range(20):
        interval = predict(fit(points(0.005, seed)), target, seed=seed)
        covered += interval.low <= truth(target) <= interval.high
        assert interval.low <= interval.value <= interval.high
    assert covered >= 15


def test_more_noise_means_a_wider_interval() -> None:
    quiet, loud = (predict(fit(points(noise, 3)), 1e19) for noise in (0.001, 0.02))
    assert loud.high - loud.low > 3 * (quiet.high - quiet.low)


def test_a_ladder_has_rungs() -> None:
    settings = rungs([1e6, 2e6, 4e6, 8e6], vocab_size=1024, seq_len=256)
    sizes = [each["model"]["hidden_size"] * each["model"]["layers"] for each in settings]
    assert sizes == sorted(sizes)
    with pytest.raises(ConfigError, match="four sizes"):
        rungs([1e6, 2e6])
    with pytest.raises(ConfigError, match="4 sizes make . different models"):
        rungs([1e6, 1.0001e6, 1.0002e6, 8e6], vocab_size=1024, seq_len=256)


def test_too_few_or_broken_points_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        fit(points(rungs=3))
    with pytest.raises(InputError, match="no finite loss"):
        fit([*points(), Point(1e13, float("nan"))])
