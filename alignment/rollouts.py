"""Sampling replies from a policy and judging them.

What is sampled is a function of (seed, what for, chunk, row) only. A job killed in the middle of a step samples the same
replies again, and the number of ranks decides only who samples which chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignment.advantages import gae, token_rewards, whiten
from alignment.losses import KlEstimator, kl_estimate
from alignment.replies import Replies, collate
from training.generate import generate
from training.model import Decoder

Prompt = Sequence[int]


@dataclass(frozen=True)
class ReplySettings:
    """How replies are drawn. ``temperature`` is part of the policy: its log-probabilities are taken at it as well."""

    max_new_tokens: int
    temperature: float
    stop_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True)
class Sampled:
    """Replies as tokens, with their prompts as a batch."""

    batch: Replies
    replies: list[list[int]]
    finished: Tensor


def sample(model: Decoder, prompts: Sequence[Prompt], settings: ReplySettings, seed: int) -> Sampled:
    """One reply a prompt. Nothing but temperature shapes the distribution: top-k or top-p would draw from another
    policy than the one whose probabilities are compared."""
    drawn = generate(
        model,
        prompts,
        stop_ids=settings.stop_ids,
        pad_id=settings.pad_id,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
    )
    batch = collate(prompts, drawn.tokens, settings.pad_id, model.device)
    return Sampled(batch, drawn.tokens, torch.tensor(drawn.finished, device=model.device))


def ended(sampled: Sampled, end: int) -> Replies:
    """The replies, where one was cut off with an end in place of its last token: as a reward model knows replies."""
    batch, cut = sampled.batch, ~sampled.finished
    input_ids = batch.input_ids.clone()
    input_ids[cut, (batch.lengths - 1)[cut]] = end
    return replace(batch, input_ids=input_ids)


@dataclass
class Experience:
    """A chunk of sampled replies, with all that the update compares against."""

    sampled: Sampled
    scores: Tensor
    """Normalised score of the reward model, before any penalty ``[B]``."""
    rewarded: Tensor
    """What the policy is rewarded with: the score less the penalty of replies that never end ``[B]``."""
    log_probs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @property
    def batch(self) -> Replies:
        return self.sampled.batch

    @property
    def kl(self) -> Tensor:
        """Estimated KL of each whole reply from the reference ``[B]``."""
        return (kl_estimate(self.log_probs, self.reference) * self.batch.mask).sum(1)


def rewarded(scores: Tensor, finished: Tensor, missing_end_penalty: float, clip: float) -> Tensor:
    """Clipped scores, less a penalty where the reply was cut off: a policy must not gain by never ending."""
    return scores.clamp(-clip, clip) - missing_end_penalty * (~finished).to(scores.dtype)


def estimate(experience: Experience, kl_coefficient: float, gamma: float, lam: float, kind: KlEstimator = "k1") -> None:
    """Fill advantages and returns."""
    mask = experience.batch.mask
    rewards = token_rewards(
        experience.rewarded, kl_estimate(experience.log_probs, experience.reference, kind), mask, kl_coefficient
    )
    experience.advantages, experience.returns = gae(rewards, experience.values, mask, gamma, lam)


def whiten_together(experiences: Sequence[Experience], reduce: Callable[[Tensor], Tensor]) -> None:
    """Whiten the advantages of all chunks of all ranks as one population."""
    flat = whiten(torch.cat([experience.advantages[experience.batch.mask] for experience in experiences]), reduce)
    sizes = [experience.batch.tokens for experience in experiences]
    for experience, part in zip(experiences, flat.split(sizes), strict=True):
        experience.advantages = torch.zeros_like(experience.advantages).masked_scatter(experience.batch.mask, part)
