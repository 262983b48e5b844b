"""Losses are sums divided once: any cut of a batch gives the same gradient."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from alignment.dpo import DpoConfig, dpo_losses
from alignment.losses import (
    GROUP_LOSSES,
    PAIR_LOSSES,
    PairLogProbs,
    PreferenceRules,
    bradley_terry,
    clipped_policy,
    clipped_value,
    group_policy,
    kl_estimate,
    kto,
)
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


def test_reward_and_kto_gradients_do_not_depend_on_how_the_batch_is_cut() -> None:
    policy, reward = tiny_decoder(1), RewardModel(tiny_decoder(2), torch.randn(1, 32) / 5)
    liked, rules = torch.tensor([True, False, False, True]), PreferenceRules(undesirable_weight=0.5)

    def kto_loss(rows: list[int]) -> Tensor:
        return kto(reply_log_probs(policy, select(rows)).sum(1) + 9, liked[rows], 0.3, rules).sum()

    def reward_loss(rows: list[int]) -> Tensor:
        return bradley_terry(reward.judge(select(rows)), reward.judge(select(rows, OTHERS)))

    assert_equal_gradients(policy, kto_loss, 4)
    assert_equal_gradients(reward, reward_loss, 4)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_preference_gradients_do_not_depend_on_how_the_batch_is_cut(name: str) -> None:
    policy, config = tiny_decoder(1), DpoConfig.model_validate({"loss": name, "label_smoothing": 0.1, "chosen_loss": 0})
    pairs = [PairTokens(*three) for three in zip(PROMPTS, REPLIES, OTHERS, strict=True)]

    def loss(rows: list[int]) -> Tensor:
        batch = pair_batch(pairs, np.array(rows), 0, torch.device("cpu"))
        return dpo_losses(policy, batch, torch.tensor([[-9.0, -10.0]] * 4)[rows], config)["loss"]

    assert_equal_gradients(policy, loss, 4)


@pytest.mark.parametrize("name", GROUP_LOSSES)
def test_group_gradients_do_not_depend_on_how_the_batch_is_cut(name: str) -> None:
    policy, how = tiny_decoder(1), GROUP_LOSSES[name]
    advantages, moved = torch.tensor([1.0, -0.5, 0.2, -0.7]), torch.randn(4, 16) / (1e4 if name == "gspo" else 10)

    def loss(rows: list[int]) -> Tensor:
        batch = select(rows)
        log_probs = reply_log_probs(policy, batch)
        old = log_probs.detach() + moved[rows, : batch.mask.shape[1]]
        penalty = 0.1 * kl_estimate(log_probs, log_probs.detach() + 0.1, "k3")
        return group_policy(log_probs, old, advantages[rows], batch.mask, how, 8, penalty).loss

    assert_equal_gradients(policy, loss, sum(map(len, REPLIES)) if how.mean_over == "tokens" else 4)


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


def one_pair(chosen: float, rejected: float, length: int = 4) -> PairLogProbs:
    """A pair whose reference gives -5 and -6, of ``length`` and half as many tokens."""
    values = (chosen, rejected, -5.0, -6.0, length, length / 2)
    return PairLogProbs(*(torch.tensor([float(value)], requires_grad=place < 2) for place, value in enumerate(values)))


def test_dpo_at_the_reference_is_log_two_and_pulls_the_pair_apart() -> None:
    pair = one_pair(-5, -6)
    loss = PAIR_LOSSES["sigmoid"](pair, PreferenceRules())
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    assert pair.chosen.grad is not None and pair.chosen.grad.item() == pytest.approx(-0.05)
    assert pair.rejected.grad is not None and pair.rejected.grad.item() == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("sigmoid", {"label_smoothing": 0.2}, 0.8 * math.log1p(math.exp(-0.3)) + 0.2 * math.log1p(math.exp(0.3))),
        (
            "robust",
            {"label_smoothing": 0.2},
            (0.8 * math.log1p(math.exp(-0.3)) - 0.2 * math.log1p(math.exp(0.3))) / 0.6,
        ),
        ("hinge", {}, 0.7),
        ("ipo", {"beta": 0.5}, (1 / 4 + 2 / 2 - 1) ** 2),
        ("simpo", {"beta": 2.0, "margin": 0.5}, math.log1p(math.exp(-(2 * (-1 + 4) - 0.5)))),
        ("orpo", {}, 0.1 * math.log1p(math.exp(-(-1 + 4 - math.log(1 - math.exp(-1)) + math.log(1 - math.exp(-4)))))),
    ],
)
def test_the_losses_of_a_pair_are_their_papers(name: str, rules: dict[str, float], expected: float) -> None:
    loss = PAIR_LOSSES[name](one_pair(-4, -8), PreferenceRules.model_validate({"loss": name, **rules}))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_hinge_and_ipo_want_no_more_than_their_margin() -> None:
    assert PAIR_LOSSES["hinge"](one_pair(5, -6), PreferenceRules()).item() == 0
    pair = one_pair(-5 + 4 * 6, -6)
    PAIR_LOSSES["ipo"](pair, PreferenceRules()).backward()
    assert pair.chosen.grad is not None and pair.chosen.grad.item() > 0, "beyond 1/2τ the pair is drawn together"


def test_kto_likes_what_was_liked_and_doubts_nothing_at_its_reference_point() -> None:
    ratios, liked = torch.tensor([0.3, 0.3], requires_grad=True), torch.tensor([True, False])
    losses = kto(ratios, liked, 0.3, PreferenceRules(undesirable_weight=2.0))
    assert losses.tolist() == pytest.approx([0.5, 1.0])
    losses.sum().backward()
    assert ratios.grad is not None and ratios.grad.tolist() == pytest.approx([-0.025, 0.05])


def test_group_losses_weigh_long_replies_as_their_papers_say() -> None:
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    for name, expected in (("grpo", [0.25, 1.0]), ("dapo", [1.0, 1.0]), ("dr_grpo", [1 / 8, 1 / 8])):
        log_probs = torch.zeros(2, 4, requires_grad=True)
        group_policy(log_probs, torch.zeros(2, 4), torch.ones(2), mask, GROUP_LOSSES[name], longest=8).loss.backward()
        assert log_probs.grad is not None
        assert [-log_probs.grad[0, 0].item(), -log_probs.grad[1, 0].item()] == pytest.approx(expected)


def test_gspo_clips_whole_replies() -> None:
    mask, old = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    terms = group_policy(torch.tensor([[0.5, -0.5]]), old, torch.ones(1), mask, GROUP_LOSSES["gspo"], 2)
    assert terms.clipped == 0 and terms.loss.item() == pytest.approx(-1), "the tokens' moves cancel"
    assert group_policy(torch.tensor([[0.1, 0.1]]), old, torch.ones(1), mask, GROUP_LOSSES["gspo"], 2).clipped == 2


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


def test_the_estimates_of_kl_agree_with_the_exact_kl_in_the_mean() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.45, 0.3, 0.25])
    exact = (policy * (policy / reference).log()).sum().item()
    for kind, error in (("k1", 1e-4), ("k3", 1e-4), ("k2", 0.1)):
        estimate = (policy * kl_estimate(policy.log(), reference.log(), kind)).sum().item()  # type: ignore[arg-type]
        assert estimate == pytest.approx(exact, rel=error), kind


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
