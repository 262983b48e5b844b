"""From the score of a reply to a signal for each of its tokens.

The reward model speaks once, at the reply's last token; the penalty for distance from the reference policy (KL) is paid at
every token. Generalised advantage estimation (arXiv 1506.02438) turns both into advantages, which are whitened over
the whole batch of all ranks: whitening each rank's part alone would make the update depend on how the batch was cut.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infra.config import Json

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks; the identity for one rank."""


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """[B, T]: minus the KL penalty at each reply token, plus the score at the last one."""
    rewards = torch.where(mask, -kl_coefficient * kl, 0.0)
    rows = torch.arange(mask.shape[0], device=mask.device)
    rewards[rows, last_index(mask)] += scores
    return rewards


def last_index(mask: Tensor) -> Tensor:
    """The position of the last True of each row. Every row must have one."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, -1).amax(dim=1)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns [B, T]. The mask of a row is one contiguous span; after its end there is nothing."""
    values = torch.where(mask, values, 0.0)
    rewards = torch.where(mask, rewards, 0.0)
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    following = torch.zeros_like(running)
    for step in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, step] + gamma * following - values[:, step]
        inside = mask[:, step]
        running = torch.where(inside, delta + gamma * lam * running, 0.0)
        following = torch.where(inside, values[:, step], 0.0)
        advantages[:, step] = running
    return advantages, advantages + values


def whiten(values: Tensor, reduce: Reduce) -> Tensor:
    """Zero mean and unit variance over the values of all ranks, of which this one may have none."""
    exact = values.double()
    count, total = reduce(torch.stack([torch.ones_like(exact).sum(), exact.sum()]))
    centred = exact - total / count
    spread = reduce(centred.square().sum()) / count
    whitened: Tensor = (centred / (spread + 1e-8).sqrt()).to(values.dtype)
    return whitened


def group_advantages(rewards: Tensor, scaled: bool) -> Tensor:
    """How much better than its group each reply did: rewards ``[prompts, group]`` less their group's mean, ``scaled`` by its
    standard deviation (GRPO, arXiv 2402.03300; Dr. GRPO, arXiv 2503.20783, does not: it favours problems that are almost
    always, or almost never, solved)."""
    advantages = rewards - rewards.mean(1, keepdim=True)
    return advantages / (rewards.std(1, keepdim=True) + 1e-4) if scaled else advantages


@dataclass
class KlController:
    """The coefficient of the KL penalty. With a target it rises while the policy is further away than
    that, and falls while it is closer."""

    coefficient: float
    target: float | None = None
    horizon: float = 1000.0

    def state(self) -> dict[str, Json]:
        return {"coefficient": self.coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.coefficient = state["coefficient"]

    def update(self, kl: float, samples: int) -> None:
        """Proportional control on the KL of whole replies (arXiv 1909.08593), at most 20 % of error at a time."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * samples / self.horizon
