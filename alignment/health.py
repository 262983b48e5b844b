"""What a healthy run of reinforcement learning looks like, and when one has collapsed.

Each figure of a round has a range in which runs that end well stay, and what it means to be outside. Being outside for a round is
noise. A run has *collapsed* when its policy is far from where it started, has forgotten to stop, or earns less and less, for
several rounds in a row: it is ended, and goes back to the last checkpoint of a healthy round, which is published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from infra.config import Config, Json
from training.faults import Collapse


@dataclass(frozen=True)
class Range:
    """Where a figure stays in runs that end well, and what it means if it does not."""

    low: float
    high: float
    beyond: str


HEALTHY: Mapping[str, Range] = {
    "kl_per_token": Range(
        0.0, 0.3, "the policy speaks another language than the model it came from: raise kl_coefficient"
    ),
    "clipped": Range(0.0, 0.3, "updates push further than one round may: lower lr or update_epochs"),
    "approx_kl": Range(0.0, 0.05, "one round changes the policy too much: lower lr or update_epochs"),
    "finished": Range(0.5, 1.0, "replies run into the limit: raise max_reply_tokens or missing_end_penalty"),
    "entropy": Range(0.05, 5.0, "below: it no longer tries anything else, raise clip_high; above: it says anything"),
    "teaching_groups": Range(0.1, 1.0, "problems are too hard or too easy for it: nothing is learnt from them"),
    "value_error": Range(0.0, 1.0, "the critic does not follow: raise critic_rounds or critic_lr"),
}


class CollapseRules(Config):
    """When reinforcement learning is given up and goes back."""

    patience: int = Field(default=3, ge=0)
    """Sick rounds in a row that end the run; 0: never."""
    kl_per_token: float = Field(default=2.0, gt=0)
    """A policy further than this many nats a token from the model it came from is sick."""
    finished: float = Field(default=0.5, ge=0, le=1)
    """So are replies of which less than this share of the first round's end, where most did."""
    reward_drop: float = Field(default=2.0, gt=0)
    """So is a reward this far below the best average of rounds so far, in units of the reward."""


@dataclass
class CollapseWatch:
    """Follows the figures of rounds. What it remembers is in every checkpoint."""

    rules: CollapseRules
    rounds: int = 0
    healthy: int = 0
    """The last round that was not sick."""
    average: float | None = None
    best: float | None = None
    """Of the reward: an average over some ten rounds, and the best it has been."""
    ends: float | None = None
    """The share of replies that ended in the first round."""

    def state(self) -> dict[str, Json]:
        return {name: getattr(self, name) for name in ("rounds", "healthy", "average", "best", "ends")}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def see(self, figures: Mapping[str, float]) -> Collapse | None:
        """Note a round; that the run has collapsed, if it has."""
        self.rounds += 1
        reward, ended = figures["reward"], figures["finished"]
        self.average = reward if self.average is None else 0.9 * self.average + 0.1 * reward
        self.best = self.average if self.best is None else max(self.best, self.average)
        self.ends = ended if self.ends is None else self.ends
        sick = self._sick(figures, self.average, self.best, self.ends)
        if not sick:
            self.healthy = self.rounds
        if not sick or not self.rules.patience or self.rounds - self.healthy < self.rules.patience:
            return None
        return Collapse(f"{'; '.join(sick)}, for {self.rules.patience} rounds", self.healthy)

    def _sick(self, figures: Mapping[str, float], average: float, best: float, ends: float) -> list[str]:
        kl, ended = figures.get("kl_per_token", 0.0), figures["finished"]
        found = []
        if not kl <= self.rules.kl_per_token:  # also what is no number
            found.append(f"the policy is {kl:.2f} nats a token from the model it came from")
        # Where hardly any ended at first, a few less say nothing.
        if ends >= 0.5 and ended < self.rules.finished * ends:
            found.append(f"{ended:.0%} of its replies end, of {ends:.0%} in the first round")
        if average < best - self.rules.reward_drop:
            found.append(f"its reward has fallen from {best:.2f} to {average:.2f}")
        return found
