"""Advantages against a naive implementation, and whitening across ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignment.advantages import KlController, gae, last_index, token_rewards, whiten

numbers = st.floats(-3, 3, width=32)
spans = st.tuples(st.integers(0, 3), st.integers(1, 6))


def naive(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition: a discounted sum of all later temporal differences."""
    deltas = [
        reward + gamma * (values[step + 1] if step + 1 < len(values) else 0.0) - values[step]
        for step, reward in enumerate(rewards)
    ]
    return [
        sum((gamma * lam) ** (later - step) * deltas[later] for later in range(step, len(deltas)))
        for step in range(len(deltas))
    ]


@settings(deadline=None, max_examples=60)
@given(st.lists(spans, min_size=1, max_size=3), st.floats(0.5, 1), st.floats(0, 1), st.randoms(use_true_random=False))
def test_gae_is_its_definition_whatever_lies_outside_the_reply(rows, gamma, lam, random) -> None:
    width = 10
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (start, length) in enumerate(rows):
        mask[row, start : start + length] = True
    rewards = torch.tensor([[random.uniform(-2, 2) for _ in range(width)] for _ in rows])
    values = torch.tensor([[random.uniform(-2, 2) for _ in range(width)] for _ in rows])
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(len(rows)):
        inside = mask[row]
        expected = naive(rewards[row][inside].tolist(), values[row][inside].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[row][inside], torch.tensor(expected), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(returns[row][inside], torch.tensor(expected) + values[row][inside])
        assert (advantages[row][~inside] == 0).all()


def test_the_score_arrives_at_the_last_token_and_kl_is_paid_at_each() -> None:
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    kl = torch.full((2, 4), 0.5)
    rewards = token_rewards(torch.tensor([1.0, -1.0]), kl, mask, 0.1)
    expected = torch.tensor([[0.0, -0.05, 0.95, 0.0], [-0.05, -0.05, -0.05, -1.05]])
    torch.testing.assert_close(rewards, expected)
    assert last_index(mask).tolist() == [2, 3]


def test_whitening_two_ranks_together_equals_whitening_one_batch() -> None:
    values = torch.randn(30) * 3 + 2
    whole = whiten(values, lambda total: total)
    assert abs(whole.mean()) < 1e-5 and abs(whole.std(correction=0) - 1) < 1e-4
    for part in (slice(0, 9), slice(9, 30), slice(0, 0)):
        torch.testing.assert_close(whiten(values[part], _as_if_summed(values.double())), whole[part])


def _as_if_summed(values: Tensor):
    """A reduction that answers with the sums over the whole batch, first of (count, total), then of squares."""
    answers = iter(
        [
            torch.stack([torch.tensor(float(len(values)), dtype=torch.float64), values.sum()]),
            ((values - values.mean()) ** 2).sum(),
        ]
    )
    return lambda _: next(answers)


def test_the_coefficient_of_kl_follows_its_target() -> None:
    fixed, adaptive = KlController(0.1), KlController(0.1, target=1.0, horizon=100)
    for _ in range(10):
        fixed.update(5.0, 10)
        adaptive.update(5.0, 10)
    assert fixed.coefficient == 0.1 and adaptive.coefficient > 0.11
    raised = adaptive.coefficient
    adaptive.update(0.1, 10)
    assert adaptive.coefficient < raised
