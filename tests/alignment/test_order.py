"""Every example as often as the epochs say, on any number of ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.order import Order, step_indices


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_each_example_is_taken_as_often_as_the_epochs_say(number, batch, epochs, ranks, size, by_length) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, number) if by_length else None
    order = Order(number, batch, epochs, seed=3, lengths=lengths)
    taken = np.zeros(number, int)
    for step in range(order.steps):
        shares = [order.parts(step, size, rank, ranks) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1, "every rank must bring the same number of micro batches"
        step_took = [index for share in shares for part in share if not part.idle for index in part.indices]
        assert len(step_took) == (batch if step < order.steps - 1 else order.examples - step * batch)
        assert all(len(part.indices) for share in shares for part in share)
        np.add.at(taken, step_took, 1)
    assert (taken == epochs).all()


@pytest.mark.parametrize(
    ("number", "epochs", "batch", "steps"), [(100, 1, 32, 4), (100, 0.5, 32, 2), (3, 0.1, 32, 1), (10, 2.1, 7, 3)]
)
def test_the_last_batch_holds_what_is_left(number: int, epochs: float, batch: int, steps: int) -> None:
    assert Order(number, batch, epochs, seed=0).steps == steps
    assert Order(number, batch, epochs, seed=0, max_steps=1).steps == 1


def test_an_epoch_is_a_permutation_and_the_next_another() -> None:
    epochs = [np.concatenate([step_indices(8, 4, 5, step) for step in steps]) for steps in ((0, 1), (2, 3))]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and (epochs[0] != epochs[1]).any()
