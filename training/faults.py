"""Steps that would do harm are recognised before the update.

A loss or gradient norm that is not finite, or far outside what the last steps showed (six standard deviations, as a
rule, and a multiple of their mean), skips the update: weights and moments stay as they were, the batch's documents
are reported, training goes on with the next batch. Several skipped steps in a row mean bad weights or a bad stretch of
data: the run goes back to a checkpoint and continues *behind* the data that led there.

    skipped again at once  the weights are those of the checkpoint and the data is other data: the data is harder from
                           here on. The new level is accepted, the past is scaled to it
    not finite again       one more rollback, and the run is given up when there are no more of them
    a new curriculum phase the past says nothing about other data: it is forgotten, and gathered anew

All of it is a function of the numbers every rank already agrees on and of what the checkpoint holds, so that ranks, and
a run and its resumption, decide alike.
"""

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from infra.config import Config


class FaultConfig(Config):
    """When an update is skipped and when the run goes back."""

    sigmas: float = Field(default=6.0, ge=0)
    """Standard deviations above the recent mean from which a loss or gradient norm is a spike; 0: never."""
    loss_factor: float = Field(default=1.25, ge=1)
    """Times the recent mean that a loss must be to be a spike, however steady the losses were."""
    norm_factor: float = Field(default=2.0, ge=1)
    """Times the recent mean that a gradient norm must be to be a spike: six deviations of a steady norm are an ordinary
    batch, which clipping keeps in bounds anyway."""
    window: int = Field(default=128, ge=32)
    """Accepted steps that make up the recent past; nothing is a spike before half of them are there. The deviation of
    fewer steps is too small: one batch of rare rows is six of them away, and good data would be gone around."""
    patience: int = Field(default=3, ge=1)
    """Skipped steps in a row after which the run goes back to a checkpoint; as many again right behind that, all of them
    finite, are a new level of the data and accepted."""
    rollbacks: int = Field(default=2, ge=0)
    """How many times a run may go back, without a whole window of applied steps in between, before it is given up."""


@dataclass(frozen=True)
class Collapse:
    """Why training is to be given up, and after which iteration it was still well."""

    reason: str
    healthy: int


class SpikeGuard:
    """Remembers the recent past; says why a step must be skipped, and whether a rise has come to stay."""

    def __init__(self, config: FaultConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=config.window)
        self.norms: deque[float] = deque(maxlen=config.window)
        self.phase = 0
        """The curriculum's phase that the past belongs to."""
        self.rollbacks = 0
        """Rollbacks since there was a whole window of applied steps."""
        self.behind_rollback = False
        """Whether the last thing that happened to the run was a rollback, not the acceptance of a level."""
        self.applied = 0
        """Applied steps since then."""
        self.skipped: list[_SkippedStep] = []
        """The skipped steps in a row. In no checkpoint: none is made among them."""

    def enter(self, phase: int) -> None:
        """The next step's data is of this phase."""
        if phase != self.phase:
            self.phase = phase
            self.losses.clear()
            self.norms.clear()

    def veto(self, loss: float, norm: float) -> str | None:
        """Why this step must not be applied, or None. Pure: see ``record``."""
        for name, value, past, factor in (
            ("loss", loss, self.losses, self.config.loss_factor),
            ("gradient norm", norm, self.norms, self.config.norm_factor),
        ):
            if self.config.sigmas and len(past) >= self.config.window // 2:
                mean = _mean(past)
                deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in past) / len(past))
                # A steady past has hardly any deviation: by itself it would make a spike of every other batch.
                if value > mean + max(self.config.sigmas * deviation, (factor - 1) * abs(mean)):
                    return f"the {name} is {value:.4g} after a mean of {mean:.4g} ± {deviation:.2g}"
        return None

    def record(self, loss: float, norm: float, skipped: bool) -> None:
        """Remember a step. Skipped ones leave no trace in the past they were measured against."""
        if skipped:
            finite = math.isfinite(loss) and math.isfinite(norm)
            self.skipped.append(_SkippedStep(loss, norm, spike=finite and self.veto(loss, norm) is not None))
            return
        self.skipped.clear()
        self.losses.append(loss)
        self.norms.append(norm)
        self.applied += 1
        if self.applied >= self.config.window:
            self.rollbacks = 0

    @property
    def exhausted(self) -> bool:
        return len(self.skipped) >= self.config.patience

    @property
    def only_spikes(self) -> bool:
        """Whether nothing but high figures made the last steps be skipped: training could go on with them."""
        return all(step.spike for step in self.skipped)

    @property
    def new_level(self) -> bool:
        """Whether the rise met before the rollback is met again by the checkpoint's weights on the data behind it.

        Updates that make the weights diverge need some steps for it; data that is harder is so from the first on.
        """
        return self.only_spikes and self.behind_rollback and self.applied < self.config.patience

    def accept(self) -> str:
        """Take the skipped steps for the level from here on; says so in a sentence.

        The past is scaled to the new level instead of forgotten, so that a spike above it is still seen.
        """
        losses, norms = [step.loss for step in self.skipped], [step.norm for step in self.skipped]
        said = f"the loss stays at {_mean(losses):.4g} after a mean of {_mean(self.losses):.4g}"
        said += f", the gradient norm at {_mean(norms):.4g} after {_mean(self.norms):.4g}"
        self.losses = _scaled(self.losses, losses)
        self.norms = _scaled(self.norms, norms)
        self.skipped.clear()
        self.behind_rollback, self.applied = False, 0
        return said

    def state(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "phase": self.phase,
            "rollbacks": self.rollbacks,
            "behind_rollback": self.behind_rollback,
            "applied": self.applied,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.losses = deque(state["losses"], self.config.window)
        self.norms = deque(state["norms"], self.config.window)
        self.phase, self.rollbacks = state["phase"], state["rollbacks"]
        self.behind_rollback, self.applied = state["behind_rollback"], state["applied"]
        self.skipped = []

    def roll_back(self, state: dict[str, Any]) -> None:
        """Restore what a checkpoint remembers, but for the fact that the run has come back to it."""
        rollbacks = self.rollbacks + 1
        self.restore(state)
        self.rollbacks, self.behind_rollback, self.applied = rollbacks, True, 0


@dataclass(frozen=True)
class _SkippedStep:
    loss: float
    norm: float
    spike: bool
    """Finite, and skipped for its height alone."""


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


def _scaled(past: deque[float], level: list[float]) -> deque[float]:
    """The past as it would have looked at a higher level, with what was seen of it."""
    before = _mean(past)
    factor = max(1.0, _mean(level) / before) if before > 0 else 1.0
    return deque([*(value * factor for value in past), *level], past.maxlen)
