"""The order is a permutation, invertible, and different for every seed and epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.order import consumed_of, phase_of, position_of, row_at, rows_of


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**64), epoch=st.integers(0, 50))
def test_every_row_comes_once_and_can_be_found_again(n: int, seed: int, epoch: int) -> None:
    positions = np.arange(n)
    rows = row_at(seed, epoch, positions, n)
    assert sorted(rows.tolist()) == list(range(n))
    assert (position_of(seed, epoch, rows, n) == positions).all()


def test_seeds_and_epochs_shuffle_differently_and_well() -> None:
    n = 10_000
    orders = [row_at(seed, epoch, np.arange(n), n) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for first in range(3):
        for second in range(first):
            assert (orders[first] == orders[second]).mean() < 0.01
        assert abs(np.corrcoef(orders[first], np.arange(n))[0, 1]) < 0.05
        assert (np.abs(np.diff(orders[first])) == 1).mean() < 0.01


def test_one_position_or_many_give_the_same_and_epochs_follow_one_another() -> None:
    n = 37
    assert [int(row_at(5, 2, position, n)) for position in range(n)] == row_at(5, 2, np.arange(n), n).tolist()
    both = rows_of(5, np.arange(2 * n), [n])
    assert both[:n].tolist() == row_at(5, 0, np.arange(n), n).tolist()
    assert both[n:].tolist() == row_at(5, 1, np.arange(n), n).tolist()


@settings(max_examples=100, deadline=None)
@given(phases=st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any), seed=st.integers(0, 99))
def test_phases_follow_one_another_each_shuffled_in_itself(phases: list[int], seed: int) -> None:
    n = sum(phases)
    consumed = np.arange(3 * n)
    rows = rows_of(seed, consumed, phases)
    for epoch in range(3):
        start = 0
        for phase, size in enumerate(phases):
            of_phase = rows[epoch * n + start : epoch * n + start + size]
            assert sorted(of_phase.tolist()) == list(range(start, start + size))
            assert {phase_of(epoch * n + start + at, phases) for at in range(size)} == ({phase} if size else set())
            start += size
        assert (consumed_of(seed, epoch, rows[epoch * n : (epoch + 1) * n], phases) == consumed[:n] + epoch * n).all()


def test_the_order_never_changes() -> None:
    """Resuming relies on it: a run started with an older version must go on with the same rows."""
    assert row_at(7, 3, np.arange(8), 1000).tolist() == [218, 39, 191, 81, 576, 248, 129, 132]


def test_a_position_outside_is_refused() -> None:
    with pytest.raises(IndexError):
        row_at(0, 0, 10, 10)
