"""One round of group-relative policy optimisation, without files or processes.

    a group of replies to each prompt -> what each earns -> how much better than its group -> clipped updates

There is no critic: the group is the baseline. ``alignment.losses.GROUP_LOSSES`` says what GRPO, Dr. GRPO, DAPO and GSPO do
differently. Log-probabilities that are compared come from the same kind of forward pass over the same batch, so the ratio
before the first update is exactly 1, however the round is cut into chunks and shared among ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from alignment.advantages import group_advantages
from alignment.losses import GROUP_LOSSES, GroupLoss, KlEstimator, group_policy, kl_estimate
from alignment.replies import Replies, collate, reply_log_probs
from alignment.rollouts import Prompt, ReplySettings, Sampled, sample
from infra.config import Config
from training.engine import Engine, StepResult
from training.loop import TrainStep
from training.model import Decoder


class GrpoRules(Config):
    """The numbers of the algorithm. What is left open is as the ``loss`` says."""

    loss: Literal["grpo", "dr_grpo", "dapo", "gspo"] = "dapo"
    """grpo: every reply weighs the same. dr_grpo: no division by length or deviation. dapo: every token weighs the same,
    clip_high .28, dynamic sampling. gspo: whole replies are compared and clipped."""
    group_size: int = Field(default=8, ge=2)
    """Replies to each prompt."""
    update_epochs: int = Field(default=1, ge=1)
    """Passes over the replies of a round."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps of one pass."""
    clip_low: float | None = Field(default=None, gt=0)
    """Furthest a probability ratio is pushed down in one round."""
    clip_high: float | None = Field(default=None, gt=0)
    """Furthest it is pushed up: higher than clip_low, rare tokens can become likely and the policy stays wide."""
    scale_rewards: bool | None = None
    """Divide advantages by the standard deviation of the group."""
    dynamic_sampling: bool | None = None
    """Leave out groups whose replies all earn the same, which teach nothing, and draw further prompts in their place."""
    most_draws: int = Field(default=3, ge=1)
    """Dynamic sampling: how many times a round's number of prompts is drawn at most."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL from the model as it came; 0 asks no second model."""
    kl_estimator: KlEstimator = "k3"
    """How KL is estimated: k1, k2 or k3 (Schulman's)."""
    unbiased_kl: bool = True
    """Weigh the KL by the probability ratio, so that its gradient is the KL's own (DeepSeek-V3.2, arXiv 2512.02556); false:
    as GRPO was published."""

    @property
    def how(self) -> GroupLoss:
        named = GROUP_LOSSES[self.loss]
        return replace(
            named,
            clip_low=self.clip_low or named.clip_low,
            clip_high=self.clip_high or named.clip_high,
            scaled=named.scaled if self.scale_rewards is None else self.scale_rewards,
            dynamic=named.dynamic if self.dynamic_sampling is None else self.dynamic_sampling,
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of a round."""
        return self.update_epochs * self.minibatches


@dataclass(frozen=True)
class Attempt:
    """A group of replies to each prompt of a chunk, and what they earned ``[prompts, group]``."""

    prompts: list[Prompt]
    """One a reply."""
    sampled: Sampled
    rewards: Tensor
    marks: Tensor
    """What each check gives each reply ``[checks, replies]``."""

    @property
    def mixed(self) -> Tensor:
        """Which groups teach something ``[prompts]``."""
        return self.rewards.amax(1) > self.rewards.amin(1)


@dataclass(frozen=True)
class Experience:
    """Replies to learn from, with all that the update compares against; one that ``counts`` not only keeps a rank in step."""

    batch: Replies
    advantages: Tensor
    log_probs: Tensor | None
    """None where the only update that is made of them starts from the policy that sampled them."""
    reference: Tensor | None
    counts: bool = True


Rate = Callable[[Sequence[int], Sequence[Sequence[int]]], Tensor]
"""(indices of problems, replies' tokens) -> what each check gives each ``[checks, replies]``."""


@torch.no_grad()
def attempt(
    engine: Engine,
    problems: Sequence[int],
    prompts: Sequence[Prompt],
    rate: Rate,
    weights: Tensor,
    settings: ReplySettings,
    rules: GrpoRules,
    seed: int,
) -> Attempt:
    """Sample a group of replies to each prompt and have them rated."""
    size = rules.group_size
    repeated = [prompt for prompt in prompts for _ in range(size)]
    sampled: Sampled = engine.evaluate(lambda policy: sample(policy, repeated, settings, seed))
    marks = rate([problem for problem in problems for _ in range(size)], sampled.replies)
    return Attempt(repeated, sampled, (weights @ marks).view(-1, size), marks)


@torch.no_grad()
def experience(
    tried: Attempt,
    keep: Tensor,
    engine: Engine,
    reference: Decoder | None,
    settings: ReplySettings,
    rules: GrpoRules,
) -> Experience:
    """The groups to ``keep`` as a batch. Of none, the first group stands in, and does not count."""
    counts = bool(keep.any())
    rows = (keep if counts else torch.arange(len(keep)) == 0).repeat_interleave(rules.group_size).tolist()
    advantages = group_advantages(tried.rewards, rules.how.scaled).flatten()
    batch = tried.sampled.batch
    if not all(rows):
        chosen = [row for row, kept in enumerate(rows) if kept]
        replies = [tried.sampled.replies[row] for row in chosen]
        batch = collate([tried.prompts[row] for row in chosen], replies, settings.pad_id, batch.mask.device)
        advantages = advantages[torch.tensor(chosen)]
    old = known = None
    if rules.steps > 1:
        old = engine.evaluate(lambda policy: reply_log_probs(policy, batch, settings.temperature))
    if reference is not None:
        known = reply_log_probs(reference, batch, settings.temperature)
    return Experience(batch, advantages.to(batch.mask.device), old, known, counts)


def update(step: TrainStep, experiences: Sequence[Experience], rules: GrpoRules, settings: ReplySettings) -> StepResult:
    """A few passes over the replies of a round, an optimizer step a minibatch. Returns the last step's figures."""
    losses = grpo_losses(rules, settings)
    for _ in range(rules.update_epochs):
        for part in np.array_split(np.arange(len(experiences)), rules.minibatches):
            result = step([experiences[index] for index in part], losses, lambda each: weight(each, rules))
    return result


def weight(each: Experience, rules: GrpoRules) -> float:
    """What the sums of its losses are divided by."""
    if not each.counts:
        return 0.0
    return float(each.batch.tokens if rules.how.mean_over == "tokens" else len(each.advantages))


def grpo_losses(rules: GrpoRules, settings: ReplySettings) -> Callable[[Any, Experience], dict[str, Tensor]]:
    """The loss function of an update step: sums over replies or tokens."""
    how = rules.how

    def losses(policy: Decoder, each: Experience) -> dict[str, Tensor]:
        log_probs = reply_log_probs(policy, each.batch, settings.temperature)
        old = log_probs.detach() if each.log_probs is None else each.log_probs
        zero = torch.zeros((), device=log_probs.device)
        kl = zero if each.reference is None else kl_estimate(log_probs, each.reference, rules.kl_estimator)
        mask, penalty = each.batch.mask, None
        if each.reference is not None:
            ratio = torch.where(mask, log_probs - old, 0.0).exp() if rules.unbiased_kl else 1.0
            penalty = rules.kl_coefficient * kl * ratio
        terms = group_policy(log_probs, old, each.advantages, mask, how, settings.max_new_tokens, penalty)
        found = {
            "loss": terms.loss,
            "clipped": terms.clipped.float(),
            "approx_kl": terms.approx_kl,
            "kl": (kl * mask).sum().detach(),
            "surprise": -log_probs.detach().sum(),
            "tokens": mask.sum().float(),
        }
        return found if each.counts else {name: value * 0.0 for name, value in found.items()}

    return losses
