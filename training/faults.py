"""Steps that would do harm are recognised before the update.

A loss or gradient norm that is not finite, or far outside what the last steps showed (six standard deviations, as a
rule), holds the update back: weights and moments stay as they were, the batch's documents are reported, training goes
on with the next batch. Several held steps in a row mean that the weights themselves are bad: then the run goes back to
a checkpoint and continues *behind* the data that led there.

All of it is a function of the numbers every rank already agrees on, so that ranks, and a run and its resumption,
decide alike.
"""

import math
from collections import deque
from typing import Any

from pydantic import Field

from infra.config import Config


class FaultConfig(Config):
    """When an update is held back and when the run goes back."""

    sigmas: float = Field(default=6.0, ge=0)
    """Standard deviations above the recent mean from which a loss or gradient norm is a spike; 0: never."""
    window: int = Field(default=128, ge=32)
    """Accepted steps that make up the recent past; nothing is a spike before half of them are there. The deviation of
    fewer steps is too small: one batch of rare rows is six of them away, and good data would be gone around."""
    patience: int = Field(default=3, ge=1)
    """Held steps in a row after which the run goes back to a checkpoint."""
    rollbacks: int = Field(default=2, ge=0)
    """How many times a run may go back before it is given up."""


class SpikeGuard:
    """Remembers the recent past; says why a step must be held."""

    def __init__(self, config: FaultConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=config.window)
        self.norms: deque[float] = deque(maxlen=config.window)
        self.held_in_a_row = 0

    def veto(self, loss: float, norm: float) -> str | None:
        """Why this step must not be applied, or None. Pure: see ``record``."""
        for name, value, past in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            if self.config.sigmas and len(past) >= self.config.window // 2:
                mean = math.fsum(past) / len(past)
                deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in past) / len(past))
                # A flat past has hardly any deviation; a tenth of the mean is never a spike.
                if value > mean + max(self.config.sigmas * deviation, 0.1 * abs(mean)):
                    return f"the {name} is {value:.4g} after a mean of {mean:.4g} ± {deviation:.2g}"
        return None

    def record(self, loss: float, norm: float, held: bool) -> None:
        """Remember a step. Held ones leave no trace in the past they were measured against."""
        if held:
            self.held_in_a_row += 1
        else:
            self.held_in_a_row = 0
            self.losses.append(loss)
            self.norms.append(norm)

    @property
    def exhausted(self) -> bool:
        return self.held_in_a_row >= self.config.patience

    def state(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "norms": list(self.norms), "held_in_a_row": self.held_in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], self.config.window)
        self.norms = deque(state["norms"], self.config.window)
        self.held_in_a_row = state["held_in_a_row"]
