"""Losses are sums divided once: any cut of a batch gives the same gradient."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from alignment.dpo import DpoConfig, dpo_losses
from alignment.losses import clipped_policy, clipped_value, dpo, kl_k1, pairwise_logistic
from alignment.pairs import PairTokens, pair_batch
from alignment.replies import Replies, RewardModel, collate, reply_log_probs, reply_log_probs_and_entropy
from tests.alignment.toys import tiny_decoder
from tests.training.folders import tiny_model

PROMPTS = [[2, 5, 9, 10], [2, 5, 11], [2, 5, 9, 9, 9, 12], [2, 5]]
REPLIES = [[6, 9, 7], [6, 14, 15, 16, 17, 7], [7], [6, 20, 21, 7]]
OTHERS = [[6, 7], [6, 30, 7], [6, 30, 31, 32, 7], [6, 22, 7]]


def gradient(model: torch.nn.Module, parts: list[Tensor], total: float) -> Tensor:
    model.zero_grad()
    for part in parts:
        (part / total).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def cuts() -> list[list[list[int]]]:
    return [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]], [[3, 0, 2], [1]]]


def select(rows: list[int], replies: list[list[int]] = REPLIES) -> Replies:
    return collate([PROMPTS[row] for row in rows], [replies[row] for row in rows], pad_id=0)


def assert_equal_gradients(model: torch.nn.Module, loss_of: object, total: float) -> None:
    gradients = [gradient(model, [loss_of(rows) for rows in cut], total) for cut in cuts()]  # type: ignore[operator]
    assert gradients[0].abs().max() > 1e-3
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-6 * gradients[0].norm()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


def test_policy_and_value_gradients_do_not_depend_on_how_the_batch_is_cut() -> None:
    policy, critic = tiny_decoder(1), RewardModel(tiny_decoder(2), torch.randn(1, 32) / 5)
    tokens = sum(map(len, REPLIES))
    advantages, old = torch.randn(4, 16), torch.randn(4, 16) / 10

    def policy_loss(rows: list[int]) -> Tensor:
        batch = select(rows)
        width = batch.mask.shape[1]
        log_probs = reply_log_probs(policy, batch)
        moved = log_probs.detach() + old[rows, :width]
        return clipped_policy(log_probs, moved, advantages[rows, :width], batch.mask, 0.2).loss

    def value_loss(rows: list[int]) -> Tensor:
        batch = select(rows)
        width = batch.mask.shape[1]
        return clipped_value(critic.values(batch), old[rows, :width], advantages[rows, :width], batch.mask, 5.0)

    assert_equal_gradients(policy, policy_loss, tokens)
    assert_equal_gradients(critic, value_loss, tokens)


def test_preference_gradients_do_not_depend_on_how_the_batch_is_cut() -> None:
    policy, reward = tiny_decoder(1), RewardModel(tiny_decoder(2), torch.randn(1, 32) / 5)

    def dpo_loss(rows: list[int]) -> Tensor:
        chosen = reply_log_probs(policy, select(rows)).sum(1)
        rejected = reply_log_probs(policy, select(rows, OTHERS)).sum(1)
        return dpo(chosen, rejected, torch.full_like(chosen, -9.0), torch.full_like(chosen, -10.0), 0.1).loss

    def reward_loss(rows: list[int]) -> Tensor:
        return pairwise_logistic(reward.judge(select(rows)), reward.judge(select(rows, OTHERS)))

    assert_equal_gradients(policy, dpo_loss, 4)
    assert_equal_gradients(reward, reward_loss, 4)


def test_dpo_holds_on_to_the_chosen_reply_whatever_the_cut() -> None:
    policy = tiny_decoder(1)
    pairs = [PairTokens(*three) for three in zip(PROMPTS, REPLIES, OTHERS, strict=True)]
    known, config = torch.tensor([[-9.0, -10.0]] * 4), DpoConfig(chosen_loss=0.5)

    def losses(rows: list[int], **changes: float) -> dict[str, Tensor]:
        batch = pair_batch(pairs, np.array(rows), 0, torch.device("cpu"))
        return dpo_losses(policy, batch, known[rows], config.model_copy(update=changes))

    assert_equal_gradients(policy, lambda rows: losses(rows)["loss"], 4)
    whole, plain = losses([0, 1, 2, 3]), losses([0, 1, 2, 3], chosen_loss=0.0)
    means = [reply_log_probs(policy, select([row])).sum() / len(REPLIES[row]) for row in range(4)]
    torch.testing.assert_close(whole["loss"], plain["loss"] - 0.5 * torch.stack(means).sum())
    assert plain["loss"].item() == plain["preference_loss"].item()


def test_the_mask_covers_the_reply_and_its_end_and_nothing_else() -> None:
    batch = select([0, 1, 2, 3])
    for row, reply in enumerate(REPLIES):
        assert batch.targets[row][batch.mask[row]].tolist() == reply
    assert batch.tokens == sum(map(len, REPLIES))


def test_padding_changes_nothing() -> None:
    model, reward = tiny_decoder(3), RewardModel(tiny_decoder(4), torch.randn(1, 32))
    together, scores = reply_log_probs(model, select([0, 1, 2, 3])), reward.judge(select([0, 1, 2, 3]))
    for row in range(4):
        alone = select([row])
        width = alone.mask.shape[1]
        torch.testing.assert_close(together[row, :width], reply_log_probs(model, alone)[0])
        assert (together[row, width:] == 0).all()
        torch.testing.assert_close(scores[row : row + 1], reward.judge(alone))


def test_a_reply_that_contains_the_padding_id_is_still_counted() -> None:
    batch = collate([[2, 5]], [[0, 0, 7]], pad_id=0)
    assert batch.tokens == 3


def test_log_probs_agree_with_the_full_softmax() -> None:
    model, batch = tiny_decoder(5, tie=False), select([0, 1, 2, 3])
    log_probs, entropy = reply_log_probs_and_entropy(model, batch, temperature=0.7)
    full = (model.logits(model(batch.input_ids))[:, :-1] / 0.7).log_softmax(-1)
    expected = full.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_probs, expected * batch.mask)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1) * batch.mask)


def test_dpo_at_the_reference_is_log_two_and_pulls_the_pair_apart() -> None:
    chosen = torch.tensor([-5.0], requires_grad=True)
    rejected = torch.tensor([-6.0], requires_grad=True)
    terms = dpo(chosen, rejected, torch.tensor([-5.0]), torch.tensor([-6.0]), 0.1)
    assert terms.loss.item() == pytest.approx(math.log(2))
    terms.loss.backward()
    assert chosen.grad is not None and chosen.grad.item() == pytest.approx(-0.05)
    assert rejected.grad is not None and rejected.grad.item() == pytest.approx(0.05)


def test_clipping_stops_the_gradient_only_where_the_policy_has_already_moved_far_enough() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)

    def slope(ratio: float, advantage: float) -> float:
        log_prob = torch.tensor([[math.log(ratio)]], requires_grad=True)
        clipped_policy(log_prob, torch.zeros(1, 1), torch.tensor([[advantage]]), mask, 0.2).loss.backward()
        assert log_prob.grad is not None
        return log_prob.grad.item()

    assert slope(1.5, 1.0) == 0 and slope(0.5, -1.0) == 0
    assert slope(1.5, -1.0) > 0 and slope(0.5, 1.0) < 0 and slope(1.1, 1.0) < 0


def test_masked_entries_may_hold_anything() -> None:
    mask = torch.tensor([[True, False]])
    log_probs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    terms = clipped_policy(log_probs, torch.tensor([[-1.0, -torch.inf]]), torch.ones(1, 2), mask, 0.2)
    terms.loss.backward()
    assert terms.loss.item() == -1 and log_probs.grad is not None and log_probs.grad.tolist() == [[-1.0, 0.0]]


def test_the_kl_estimate_agrees_with_the_exact_kl_in_the_mean() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.2, 0.3, 0.5])
    exact = (policy * (policy / reference).log()).sum()
    assert torch.isclose((policy * kl_k1(policy.log(), reference.log())).sum(), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_said_of_a_reply_does_not_hang_on_its_neighbours(dtype: torch.dtype) -> None:
    model = tiny_model(hidden_size=128, intermediate_size=192, max_position=256).to(dtype)
    random = torch.Generator().manual_seed(0)
    rows = [torch.randint(8, 264, (size,), generator=random).tolist() for size in (7, 19, 41, 90)]
    prompts, replies = [row[: len(row) // 2] for row in rows], [row[len(row) // 2 :] for row in rows]
    reward = RewardModel(model, torch.randn(1, 128, generator=random).to(dtype)).eval()
    with torch.no_grad():
        together = reply_log_probs(model, collate(prompts, replies, 0))
        scores = reward.judge(collate(prompts, replies, 0))
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            batch = collate([prompt], [reply], 0)
            alone = reply_log_probs(model, batch)[batch.mask]
            beside = together[row, : batch.mask.shape[1]][batch.mask[0]]
            torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(scores[row : row + 1], reward.judge(batch), atol=1e-5, rtol=1e-5)
