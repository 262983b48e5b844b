"""One round of PPO (arXiv 1707.06347) for language models (arXiv 1909.08593), without files or processes.

    sample replies -> score them -> penalty for KL, advantages -> a few clipped updates of policy and critic

Policy and critic are separate networks under one engine, so that one checkpoint holds both or neither. All
log-probabilities that are compared come from the same kind of forward pass, never from the sampler, whose cached
attention rounds differently.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from alignment.losses import KlEstimator, clipped_policy, clipped_value
from alignment.replies import Replies, RewardModel, reply_log_probs, reply_log_probs_and_entropy
from alignment.rollouts import Experience, Prompt, ReplySettings, ended, estimate, rewarded, sample, whiten_together
from infra.config import Config, Later
from training.engine import Engine, StepResult
from training.loop import TrainStep
from training.model import Decoder


class ActorCritic(nn.Module):
    """The two networks that learn. The critic's learning rate is ``critic_lr_scale`` times the policy's."""

    def __init__(self, policy: Decoder, critic: RewardModel, critic_lr_scale: float) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        for parameter in critic.parameters():
            parameter.lr_scale = critic_lr_scale  # type: ignore[attr-defined]  # read by training.optimizer


class PpoRules(Config):
    """The numbers of the algorithm."""

    update_epochs: int = Field(default=2, ge=1)
    """Passes over the replies of a round."""
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps of one pass."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount from token to token."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """Weight of longer returns in the advantages. A reply is judged once, at its end: below 1, less of that reaches a token
    the further it is from the end, and what is learnt first is to end."""
    policy_clip: float = Field(default=0.2, gt=0)
    """Furthest a token's probability ratio is pushed in one round."""
    value_clip: float = Field(default=0.5, gt=0)
    """Furthest a value is pushed in one round."""
    value_weight: float = Field(default=0.1, gt=0)
    """Weight of the value function's loss."""
    reward_clip: float = Field(default=5.0, gt=0)
    """Largest normalised reward."""
    missing_end_penalty: float = Field(default=1.0, ge=0)
    """Taken from the reward of a reply that reaches the length limit without ending."""
    judge_as_ended: Annotated[bool, Later()] = False
    """Judge a reply that was cut off as if it ended there: a reward model has only seen replies that end."""
    kl_estimator: Annotated[KlEstimator, Later()] = "k1"
    """How the KL that is paid for is estimated: k1, k2 or k3 (Schulman's). The KL that is told is always k1's."""
    entropy_bonus: float = Field(default=0.0, ge=0)
    """Reward for keeping the distribution wide."""


class Judge(Protocol):
    """Scores whole replies: a reward model, or a rule."""

    def judge(self, batch: Replies) -> Tensor: ...


@dataclass(frozen=True)
class PpoModels:
    """An engine over an ``ActorCritic``, and the two that do not learn."""

    engine: Engine
    reference: Decoder
    reward: Judge


@torch.no_grad()
def collect(
    models: PpoModels, prompts: Sequence[Prompt], settings: ReplySettings, rules: PpoRules, seed: int
) -> Experience:
    """Sample one chunk of replies and look at them with all four models."""
    sampled = models.engine.evaluate(lambda both: sample(both.policy, prompts, settings, seed))
    batch = sampled.batch
    scores = models.reward.judge(ended(sampled, settings.stop_ids[0]) if rules.judge_as_ended else batch)
    nothing = torch.zeros(batch.mask.shape, device=batch.mask.device)
    return Experience(
        sampled,
        scores,
        rewarded(scores, sampled.finished, rules.missing_end_penalty, rules.reward_clip),
        log_probs=models.engine.evaluate(lambda both: reply_log_probs(both.policy, batch, settings.temperature)),
        reference=reply_log_probs(models.reference, batch, settings.temperature),
        values=models.engine.evaluate(lambda both: both.critic.values(batch)),
        advantages=nothing,
        returns=nothing,
    )


def update(
    step: TrainStep,
    experiences: Sequence[Experience],
    rules: PpoRules,
    temperature: float,
    kl_coefficient: float,
    reduce: Callable[[Tensor], Tensor],
    policy_learns: bool = True,
) -> StepResult:
    """A few passes over the experiences of a round, an optimizer step a minibatch. Returns the last step's figures."""
    for experience in experiences:
        estimate(experience, kl_coefficient, rules.gamma, rules.gae_lambda, rules.kl_estimator)
    whiten_together(experiences, reduce)
    losses = ppo_losses(rules, temperature, policy_learns)
    size = -(-len(experiences) // rules.minibatches)
    for _ in range(rules.update_epochs):
        for start in range(0, len(experiences), size):
            result = step(experiences[start : start + size], losses, _tokens)
    return result


def steps_of_round(chunks: int, rules: PpoRules) -> int:
    """Optimizer steps of one round with so many chunks on each rank."""
    size = -(-chunks // rules.minibatches)
    return rules.update_epochs * -(-chunks // size)


def ppo_losses(
    rules: PpoRules, temperature: float, policy_learns: bool
) -> Callable[[Any, Experience], dict[str, Tensor]]:
    """The loss function of an update step: sums over reply tokens."""

    def losses(both: ActorCritic, experience: Experience) -> dict[str, Tensor]:
        batch = experience.batch
        if rules.entropy_bonus:
            log_probs, entropy = reply_log_probs_and_entropy(both.policy, batch, temperature)
        else:
            log_probs, entropy = reply_log_probs(both.policy, batch, temperature), torch.zeros(())
        terms = clipped_policy(log_probs, experience.log_probs, experience.advantages, batch.mask, rules.policy_clip)
        values = both.critic.values(batch)
        value = clipped_value(values, experience.values, experience.returns, batch.mask, rules.value_clip)
        policy = terms.loss - rules.entropy_bonus * entropy.sum().to(terms.loss.device)
        # While only the critic learns, the policy still takes part with gradient 0: every rank must reduce every tensor.
        loss = policy * float(policy_learns) + rules.value_weight * value
        return {
            "loss": loss,
            "policy_loss": terms.loss,
            "value_loss": value,
            "clipped": terms.clipped.float(),
            "approx_kl": terms.approx_kl,
        }

    return losses


def _tokens(experience: Experience) -> float:
    return experience.batch.tokens
