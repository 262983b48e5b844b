"""The losses of alignment, each as a *sum* over its tokens, replies or pairs.

None divides by their number. The optimizer step divides once, by the number of tokens, replies or pairs of the whole step
over all micro-batches and all ranks: only then do accumulation, one big batch and two ranks give the same gradient. A
mean inside a loss would give a token of a short micro-batch more weight than one of a long micro-batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from infra.config import Config, Later

# ---- reward model -----------------------------------------------------------------------------------------------------


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    weights: Tensor | float = 1.0,
    ties: Tensor | None = None,
    margins: Tensor | float = 0.0,
) -> Tensor:
    """Reward model: sum over pairs of the weighted -log σ(score of chosen - score of rejected - margin); of a tie the mean
    over both orders (margins: Llama 2, arXiv 2307.09288)."""
    difference = chosen - rejected
    loss = -F.logsigmoid(difference - margins)
    if ties is not None:
        loss = torch.where(ties, -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference)), loss)
    return (weights * loss).sum()


# ---- preferences ------------------------------------------------------------------------------------------------------


class PreferenceRules(Config):
    """Which loss is taken of a pair, and its numbers."""

    loss: Annotated[Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo", "kto"], Later()] = "sigmoid"
    """sigmoid (DPO; with label_smoothing conservative DPO), ipo, hinge (SLiC), robust (to a label_smoothing share of
    wrong labels), simpo (no reference), orpo (no reference; its paper has chosen_loss 1), kto (each reply by itself)."""
    beta: float = Field(default=0.1, gt=0)
    """How strongly the policy is held to the reference: smaller lets it move further. ipo: its τ. simpo: 2 to 10.
    orpo: the weight λ of the odds ratio."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of pairs labelled the wrong way round (sigmoid, robust)."""
    margin: Annotated[float, Later()] = Field(default=1.0, ge=0)
    """simpo: by how much, in β times nats a token, the chosen reply shall be likelier (γ)."""
    desirable_weight: Annotated[float, Later()] = Field(default=1.0, ge=0)
    """kto: weight of a reply that was liked."""
    undesirable_weight: Annotated[float, Later()] = Field(default=1.0, ge=0)
    """kto: weight of a reply that was not."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss looks at the model as it came."""
        return self.loss not in ("simpo", "orpo")


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probabilities of whole replies under policy and reference, and the replies' tokens; each ``[pairs]``."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log π/π_ref of the chosen and the rejected replies."""
        return self.chosen - self.reference_chosen, self.rejected - self.reference_rejected

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Log-probability a token."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens


def _margin(pairs: PairLogProbs, beta: float) -> Tensor:
    """β (log π/π_ref of the chosen reply - that of the rejected one): how far the implied rewards are apart."""
    chosen, rejected = pairs.log_ratios
    return beta * (chosen - rejected)


def sigmoid(pairs: PairLogProbs, rules: PreferenceRules) -> Tensor:
    """DPO (arXiv 2305.18290, Eq. 7); with label smoothing its conservative form: the labels' cross-entropy."""
    h, noise = _margin(pairs, rules.beta), rules.label_smoothing
    return -(1 - noise) * F.logsigmoid(h) - noise * F.logsigmoid(-h)


def robust(pairs: PairLogProbs, rules: PreferenceRules) -> Tensor:
    """rDPO (arXiv 2403.00409): what DPO's loss would be on average if no label were wrong."""
    h, noise = _margin(pairs, rules.beta), rules.label_smoothing
    return (-(1 - noise) * F.logsigmoid(h) + noise * F.logsigmoid(-h)) / (1 - 2 * noise)


def hinge(pairs: PairLogProbs, rules: PreferenceRules) -> Tensor:
    """The hinge of SLiC-HF (arXiv 2305.10425, Eq. 1) on DPO's margin: nothing is gained beyond a margin of 1."""
    return torch.relu(1 - _margin(pairs, rules.beta))


def ipo(pairs: PairLogProbs, rules: PreferenceRules) -> Tensor:
    """IPO (arXiv 2310.12036, Eq. 17): the margin is drawn to 1/2τ and no further. Of means over tokens: of sums, a long
    reply would have to move less a token than a short one."""
    chosen, rejected = pairs.log_ratios
    margin = chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens
    return (margin - 1 / (2 * rules.beta)) ** 2


def simpo(pairs: PairLogProbs, rules: PreferenceRules) -> Tensor:
    """SimPO (arXiv 2405.14734, Eq. 6): the mean log-probability is the reward, γ the target margin; no reference."""
    chosen, rejected = pairs.means
    return -F.logsigmoid(rules.beta * (chosen - rejected) - rules.margin)


def orpo(pairs: PairLogProbs, rules: PreferenceRules) -> Tensor:
    """ORPO's λ L_OR (arXiv 2403.07691, Eq. 7): the odds of the chosen reply over those of the rejected one. The chosen
    reply's own loss, which the paper adds (Eq. 6), is ``chosen_loss`` of the stage."""
    chosen, rejected = pairs.means
    return -rules.beta * F.logsigmoid((chosen - _log1mexp(chosen)) - (rejected - _log1mexp(rejected)))


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - eˣ) for x < 0, without losing its digits at either end."""
    x = x.clamp(max=-1e-7)
    return torch.where(x > -0.6931, (-torch.expm1(x)).log(), torch.log1p(-x.exp()))


PAIR_LOSSES: Mapping[str, Callable[[PairLogProbs, PreferenceRules], Tensor]] = {
    "sigmoid": sigmoid,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "simpo": simpo,
    "orpo": orpo,
}
"""By name: the loss of each pair ``[pairs]``."""


def implied_rewards(pairs: PairLogProbs, rules: PreferenceRules) -> tuple[Tensor, Tensor]:
    """What the policy implies of chosen and rejected replies: β log π/π_ref, or β times the mean log-probability."""
    chosen, rejected = pairs.log_ratios if rules.has_reference else pairs.means
    return rules.beta * chosen.detach(), rules.beta * rejected.detach()


def kto(log_ratios: Tensor, liked: Tensor, reference_point: float | Tensor, rules: PreferenceRules) -> Tensor:
    """KTO (arXiv 2402.01306, Eq. 8) of replies each with a verdict of its own ``[replies]``.

    ``reference_point`` is z₀, the policy's KL from the reference as estimated on replies to other prompts; it is one for the
    whole step, and no gradient flows through it.
    """
    value = torch.where(liked, log_ratios - reference_point, reference_point - log_ratios)
    weight = torch.where(liked, rules.desirable_weight, rules.undesirable_weight)
    return weight * (1 - torch.sigmoid(rules.beta * value))


# ---- policy optimisation ----------------------------------------------------------------------------------------------


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
    """PPO's clipped surrogate (arXiv 1707.06347, Eq. 7), token by token. All tensors are ``[B, T]``."""
    log_ratio = _difference(log_probs, old_log_probs, mask)
    loss, clipped = _surrogate(log_ratio, advantages, clip, clip)
    return PolicyTerms(torch.where(mask, loss, 0.0).sum(), (clipped & mask).sum(), _k3(log_ratio, mask))


def _difference(log_probs: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    # Padding holds no defined log-probability: a non-finite difference there would turn 0 * inf into NaN.
    return torch.where(mask, log_probs - others, 0.0)


def _surrogate(log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    ratio = log_ratio.exp()
    plain, clipped = ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages
    return -torch.minimum(plain, clipped), clipped < plain


def _k3(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, log_ratio.exp() - 1 - log_ratio, 0.0).detach().sum()


@dataclass(frozen=True)
class GroupLoss:
    """One of the losses of group-relative policy optimisation."""

    ratio: Literal["token", "sequence"]
    """Policies are compared token by token, or by the geometric mean over a reply."""
    clip_low: float
    clip_high: float
    mean_over: Literal["replies", "tokens", "longest"]
    """Every reply weighs the same; every token does; every token does, and a reply is as long as the longest allowed."""
    scaled: bool
    """Advantages are divided by the group's standard deviation."""
    dynamic: bool
    """Groups whose replies all earn the same are replaced."""


GROUP_LOSSES: Mapping[str, GroupLoss] = {
    "grpo": GroupLoss("token", 0.2, 0.2, "replies", scaled=True, dynamic=False),
    "dr_grpo": GroupLoss("token", 0.2, 0.2, "longest", scaled=False, dynamic=False),
    "dapo": GroupLoss("token", 0.2, 0.28, "tokens", scaled=True, dynamic=True),
    "gspo": GroupLoss("sequence", 3e-4, 4e-4, "replies", scaled=True, dynamic=False),
}
"""GRPO (arXiv 2402.03300, Eq. 3), Dr. GRPO (2503.20783), DAPO (2503.14476, Eq. 8), GSPO (2507.18071, Eq. 5)."""


def group_policy(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    how: GroupLoss,
    longest: int,
    penalty: Tensor | None = None,
) -> PolicyTerms:
    """The clipped surrogate of replies with one advantage each ``[B]``; other tensors are ``[B, T]``.

    To be divided by the number of tokens where ``mean_over`` says tokens, of replies otherwise. ``penalty`` is added to each
    token's loss before the mean: a KL from a reference, with its coefficient.
    """
    log_ratio, tokens = _difference(log_probs, old_log_probs, mask), mask.sum(1, keepdim=True).clamp(min=1)
    compared = log_ratio.sum(1, keepdim=True) / tokens if how.ratio == "sequence" else log_ratio
    loss, clipped = _surrogate(compared, advantages.unsqueeze(1), how.clip_low, how.clip_high)
    loss = torch.where(mask, loss if penalty is None else loss + penalty, 0.0)
    share = {"replies": 1 / tokens, "tokens": torch.ones_like(loss), "longest": torch.full_like(loss, 1 / longest)}
    return PolicyTerms((loss * share[how.mean_over]).sum(), (clipped & mask).sum(), _k3(log_ratio, mask))


def clipped_value(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half squared error of the value function, its move since the rollout limited to ``clip``; summed over tokens."""
    limited = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns) ** 2, (limited - returns) ** 2)
    return 0.5 * torch.where(mask, error, 0.0).sum()


KlEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(log_probs: Tensor, reference: Tensor, kind: KlEstimator = "k1") -> Tensor:
    """KL(policy ‖ reference) of each sampled token.

    With d = log π/π_ref: k1 = d is unbiased, and negative on single tokens; k2 = d²/2 is biased, steady, and its gradient is the
    KL's own; k3 = e⁻ᵈ - 1 + d is unbiased and never negative (GRPO's, arXiv 2402.03300, Eq. 4), but explodes where
    the policy has left tokens behind that the reference likes.
    """
    difference = log_probs - reference
    if kind == "k1":
        return difference
    return difference.square() / 2 if kind == "k2" else torch.expm1(-difference) + difference
