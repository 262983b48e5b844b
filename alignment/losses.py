"""The losses of alignment, each as a *sum* over its tokens or pairs.

None divides. The optimizer step divides once, by the number of tokens or pairs of the whole step over all micro-batches
and all ranks: only then do accumulation, one big batch and two ranks give the same gradient. A mean inside a loss would
give a token of a short micro-batch more weight than one of a long micro-batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_logistic(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Reward model (Bradley–Terry): sum over pairs of -log σ(score of chosen - score of rejected)."""
    return -F.logsigmoid(chosen - rejected).sum()


@dataclass(frozen=True)
class PreferenceTerms:
    """``loss`` is a sum over pairs; the rewards are what DPO's policy implies for each pair."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> PreferenceTerms:
    """Direct preference optimisation (arXiv 2305.18290) from the log-probability of whole replies.

    ``label_smoothing`` is the assumed share of pairs labelled the wrong way round (conservative DPO).
    """
    chosen_reward = beta * (chosen - reference_chosen)
    rejected_reward = beta * (rejected - reference_rejected)
    margin = chosen_reward - rejected_reward
    loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    return PreferenceTerms(loss.sum(), chosen_reward.detach(), rejected_reward.detach())


@dataclass(frozen=True)
class PolicyTerms:
    """Sums over the masked tokens: the loss, how many ratios were clipped, the KL from the policy that sampled (k3)."""

    loss: Tensor
    clipped: Tensor
    approx_kl: Tensor


def clipped_policy(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
) -> PolicyTerms:
    """PPO's clipped surrogate (arXiv 1707.06347), token by token. All tensors are ``[B, T]``."""
    # Padding holds no defined log-probability: a non-finite difference there would turn 0 * inf into NaN.
    difference = torch.where(mask, log_probs - old_log_probs, 0.0)
    ratio = difference.exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -torch.where(mask, torch.minimum(plain, clipped), 0.0).sum()
    approx_kl = torch.where(mask, ratio - 1 - difference, 0.0).detach().sum()
    return PolicyTerms(loss, ((clipped < plain) & mask).sum(), approx_kl)


def clipped_value(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half squared error of the value function, its move since the rollout limited to ``clip``; summed over tokens."""
    limited = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns) ** 2, (limited - returns) ** 2)
    return 0.5 * torch.where(mask, error, 0.0).sum()


def kl_k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Unbiased per-token estimate of KL(policy ‖ reference) for sampled tokens; negative on single tokens."""
    return log_probs - reference
