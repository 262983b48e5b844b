"""The reward model's loss reads weights, ties and margins; its report tells what is length and what is luck."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alignment.losses import bradley_terry
from alignment.pairs import PairTokens, pair_batch
from alignment.replies import RewardModel
from alignment.reward import PairStates, RewardConfig, fit_score, reward_losses
from alignment.reward_report import by_quantile, calibration, length_controlled, report
from tests.alignment.toys import tiny_decoder


def test_weights_repeat_ties_pull_together_and_margins_push_apart() -> None:
    chosen, rejected = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.2, 0.7, 1.0])
    plain = [-F.logsigmoid(c - r) for c, r in zip(chosen, rejected, strict=True)]
    torch.testing.assert_close(bradley_terry(chosen, rejected), sum(plain))
    weights = torch.tensor([2.0, 1.0, 0.0])
    torch.testing.assert_close(bradley_terry(chosen, rejected, weights), 2 * plain[0] + plain[1])
    gap = torch.tensor([0.4], requires_grad=True)
    bradley_terry(gap, torch.zeros(1), ties=torch.tensor([True])).backward()
    assert gap.grad is not None and gap.grad.item() > 0, "a tie brings the scores together"
    further = bradley_terry(chosen, rejected, margins=torch.tensor([0.5, 0.5, 0.5]))
    torch.testing.assert_close(further, bradley_terry(chosen, rejected + 0.5))


def test_a_batch_brings_what_people_said_to_the_loss() -> None:
    rows = [([2, 5], [9, 10, 3], [11, 3]), ([2, 6], [12, 3], [13, 14, 15, 3]), ([2, 7], [16, 3], [17, 3])]
    torch.manual_seed(0)
    model = RewardModel(tiny_decoder(), score=torch.randn(1, 32))
    given = zip(rows, (1, 3, 2), (False, False, True), (1, 0, 0), strict=True)
    said = [PairTokens(*row, weight=weight, tie=tie, margin=margin) for row, weight, tie, margin in given]
    batch = pair_batch(said, np.arange(3), 0, torch.device("cpu"))
    scores = model.judge(batch.replies)
    found = reward_losses(model, batch, margin=0.5, centring=0.1)
    expected = bradley_terry(
        scores[:3],
        scores[3:],
        torch.tensor([1.0, 3.0, 2.0]),
        torch.tensor([False, False, True]),
        torch.tensor([0.5, 0, 0]),
    )
    centre = 0.1 * sum(w * (scores[i] + scores[3 + i]) ** 2 for i, w in enumerate((1, 3, 2)))
    torch.testing.assert_close(found["loss"], expected + centre)
    plain = reward_losses(model, pair_batch([PairTokens(*row) for row in rows], np.arange(3), 0, torch.device("cpu")))
    torch.testing.assert_close(plain["loss"], -F.logsigmoid(scores[:3] - scores[3:]).sum())


def test_the_score_starts_where_the_loss_with_its_ridge_is_least() -> None:
    random = torch.Generator().manual_seed(0)
    shared = torch.tensor([9.0, 0, 0, 0, 0, 0])
    chosen, rejected = (shared + torch.randn(400, 6, dtype=torch.float64, generator=random) for _ in range(2))
    ties, margins = torch.rand(400, generator=random) < 0.1, torch.rand(400, dtype=torch.float64, generator=random)
    weights = torch.randint(1, 4, (400,), generator=random).double()
    pairs = PairStates(chosen, rejected, weights, ties, margins)

    def found(ridge: float, pairs: PairStates = pairs, centring: float = 0.1) -> torch.Tensor:
        config = RewardConfig(linear_probe=ridge, margin=0.5, centring=centring)
        return fit_score(pairs, config, reduce=lambda total: total)

    def loss(score: torch.Tensor, ridge: float) -> torch.Tensor:
        better, worse = chosen @ score[0], rejected @ score[0]
        sums = bradley_terry(better, worse, weights, ties, 0.5 * margins)
        sums = sums + 0.1 * (weights * (better + worse) ** 2).sum()
        return sums / weights.sum() + ridge / 2 * score.square().sum()

    score = found(0.01).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(score, 0.01), score)
    assert gradient.abs().max() < 1e-5 and found(1.0).norm() < 0.8 * score.norm()
    again = torch.arange(400).repeat_interleave(weights.long())
    repeated = PairStates(chosen[again], rejected[again], torch.ones(len(again)).double(), ties[again], margins[again])
    torch.testing.assert_close(found(0.01, repeated), score.detach(), atol=1e-5, rtol=1e-5)
    means = [(chosen @ found(0.01, centring=centring)[0]).mean().abs() for centring in (0.0, 0.1)]
    assert means[1] < means[0] / 5, "what all ends of replies share moves no score"


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return np.random.default_rng(0).integers(5, 200, (2000, 2)).astype(float)


def test_a_model_that_counts_words_has_nothing_left(lengths: np.ndarray) -> None:
    random = np.random.default_rng(1)
    longer = np.log(lengths[:, 0]) - np.log(lengths[:, 1])
    # Each pair turned so that the longer reply was chosen seven times of ten.
    turned = np.where((longer > 0) == (random.random(2000) < 0.7), 1, -1)
    pairs = np.where((turned > 0)[:, None], lengths, lengths[:, ::-1])
    longer = longer * turned
    counts = longer + 1e-9 * random.standard_normal(2000)
    found = length_controlled(counts, pairs)
    assert found["share_explained_by_length"] > 0.999 and found["slope_of_log_length"] == pytest.approx(1, abs=1e-6)
    assert found["controlled_accuracy"]["low"] < 0.5 < found["controlled_accuracy"]["high"]
    content = random.standard_normal(2000) + 1.5
    mixed = length_controlled(content + longer, pairs)
    assert mixed["controlled_accuracy"]["value"] > 0.75
    bins = by_quantile(longer, counts)
    assert bins[0]["accuracy"]["value"] == 0 and bins[-1]["accuracy"]["value"] == 1 and len(bins) == 5
    assert sum(part["accuracy"]["n"] for part in bins) == 2000


def test_calibration_is_of_what_happens() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal(20_000) * 1.5
    said = np.where(random.random(20_000) < 1 / (1 + np.exp(-logits)), logits, -logits)
    honest, sure = calibration(said), calibration(4 * said)
    assert honest["expected_error"] < 0.02 < 0.1 < sure["expected_error"]
    assert honest["log_loss"] < sure["log_loss"] and honest["brier"] < sure["brier"]
    assert [part["confidence"] for part in honest["bins"]] == sorted(part["confidence"] for part in honest["bins"])


def test_the_report_leaves_ties_out_of_what_is_right() -> None:
    random = np.random.default_rng(0)
    pairs = [PairTokens([1], [2] * int(a), [3] * int(b), tie=n % 5 == 0, margin=float(n % 3)) for n, (a, b) in
             enumerate(random.integers(2, 30, (300, 2)))]  # fmt: skip
    scores = random.standard_normal((300, 2))
    scores[:, 0] += np.array([0.0 if pair.tie else 0.5 + pair.margin for pair in pairs])
    found = report(scores, pairs, scores)
    assert found["accuracy"]["n"] == 240 and found["ties"]["n"] == 60
    assert found["ties"]["mean_difference"] < found["ties"]["of_decided_pairs"]
    by_people = [part["accuracy"]["value"] for part in found["by_people's_margin"]]
    assert by_people[-1] > by_people[0]
    assert [part["accuracy"]["value"] for part in found["by_margin"]] == pytest.approx(
        sorted(part["accuracy"]["value"] for part in found["by_margin"]), abs=0.1
    )
