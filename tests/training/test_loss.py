"""Chunked losses against the plain formulas, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training import loss
from training.loss import chunked_cross_entropy, fusable_loss, token_log_probs, token_log_probs_and_entropy


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven tokens a chunk: chunk edges fall inside rows, and the last chunk is short."""
    monkeypatch.setattr(loss, "chunk_tokens", lambda vocabulary, device, fused=False: 7)


def material(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 11, 16, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 50, (3, 11), generator=generator)
    mask = torch.rand(3, 11, generator=generator) < 0.6
    return hidden, weight, targets, mask


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor, z_loss: float) -> Tensor:
    logits = hidden @ weight.t()
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return ((losses + z_loss * logits.logsumexp(-1).square()) * mask).sum()


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_cross_entropy_and_its_gradients(z_loss: float) -> None:
    hidden, weight, targets, mask = material()
    total, count = chunked_cross_entropy(hidden, weight, targets, mask, z_loss)
    wanted = plain(hidden, weight, targets, mask, z_loss)
    assert count.item() == mask.sum().item()
    torch.testing.assert_close(total.double(), wanted, atol=1e-4, rtol=1e-6)
    found = torch.autograd.grad(total / count, (hidden, weight))
    expected = torch.autograd.grad(wanted / mask.sum(), (hidden, weight))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_weights_in_the_mask_scale_each_token() -> None:
    hidden, weight, targets, _ = material()
    weights = torch.rand(3, 11)
    total, count = chunked_cross_entropy(hidden, weight, targets, weights)
    torch.testing.assert_close(total.double(), plain(hidden, weight, targets, weights, 0.0), atol=1e-4, rtol=1e-6)
    assert count.item() == pytest.approx(weights.sum().item())


def test_only_the_wanted_gradients_are_made() -> None:
    hidden, weight, targets, mask = material()
    total, _ = chunked_cross_entropy(hidden, weight.detach(), targets, mask)
    total.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        assert not chunked_cross_entropy(hidden, weight, targets, mask)[0].requires_grad


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_the_form_for_a_compiler_says_the_same(z_loss: float) -> None:
    hidden, weight, targets, mask = material()
    logits = (hidden @ weight.t()).detach().flatten(0, 1)
    arguments = (targets.flatten(), mask.flatten().float(), z_loss, True)
    for found, wanted in zip(fusable_loss(logits, *arguments), loss._loss_of_chunk(logits, *arguments), strict=True):
        assert found is not None and wanted is not None
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_two_halves_add_up_to_the_whole() -> None:
    hidden, weight, targets, mask = material()
    whole, count = chunked_cross_entropy(hidden, weight, targets, mask)
    halves = [
        chunked_cross_entropy(hidden[rows], weight, targets[rows], mask[rows]) for rows in (slice(1), slice(1, 3))
    ]
    torch.testing.assert_close(halves[0][0] + halves[1][0], whole)
    assert halves[0][1] + halves[1][1] == count


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_under_any_function_of_them(temperature: float) -> None:
    hidden, weight, targets, _ = material()
    log_probs, entropy = token_log_probs_and_entropy(hidden, weight, targets, temperature)
    distribution = torch.distributions.Categorical(logits=hidden @ weight.t() / temperature)
    torch.testing.assert_close(log_probs.double(), distribution.log_prob(targets), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), distribution.entropy(), atol=1e-4, rtol=1e-4)
    assert torch.equal(token_log_probs(hidden, weight, targets, temperature), log_probs)

    def score(values: Tensor, spread: Tensor) -> Tensor:
        return F.logsigmoid(values.sum(-1)).sum() + 0.1 * spread.square().sum()

    found = torch.autograd.grad(score(log_probs, entropy), (hidden, weight))
    wanted = torch.autograd.grad(score(distribution.log_prob(targets), distribution.entropy()), (hidden, weight))
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_bf16_sums_in_float32() -> None:
    hidden, weight, targets, mask = material(torch.float32)
    total, _ = chunked_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, mask)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, plain(hidden, weight, targets, mask, 0.0).float(), rtol=2e-2, atol=0.0)
