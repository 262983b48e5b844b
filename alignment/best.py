"""The step whose held-out figure was best, and its weights if they are to be published.

The weights lie beside the checkpoints, by their step. A checkpoint is made right after they are written, and names the
step in its state: whatever is killed, the weights that a checkpoint names are there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import safe_open

from infra.config import Json
from infra.store.files import replacing
from training.engine import Engine, Read
from training.weights import write_safetensors


@dataclass(frozen=True)
class Figure:
    """The held-out figure that a stage is judged by. A later one is worse only if it is so by more than ``noise``."""

    name: str
    lower_is_better: bool = False
    noise: float = 0.0
    """Of a loss, a share of it; of an accuracy or a reward, the difference itself."""

    def better(self, value: float, than: float) -> bool:
        return value < than if self.lower_is_better else value > than

    def worse(self, value: float, than: float) -> bool:
        """Beyond what is noise."""
        return value > than * (1 + self.noise) if self.lower_is_better else value < than - self.noise


@dataclass
class Best:
    """Follows the figure. ``keep``: the weights of the best step are kept as well."""

    figure: Figure
    engine: Engine
    folder: Path
    keep: bool
    step: int = 0
    value: float | None = None
    last: float | None = None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Weights of later steps are of no more use."""
        self.step, self.value, self.last = state["step"], state["value"], state["last"]
        if self.engine.ranks.first:
            for path in self.folder.glob("*.safetensors"):
                if path > self._path:
                    path.unlink()

    def state(self) -> dict[str, Json]:
        """What a checkpoint must hold to go on following the figure."""
        last = self.last if self.last is not None and math.isfinite(self.last) else None
        return {"step": self.step, "value": self.value, "last": last}

    def see(self, figures: Mapping[str, float]) -> bool:
        """Note the figure of the engine's step; True if weights were kept that a checkpoint must name."""
        self.last = figures[self.figure.name]
        if not math.isfinite(self.last) or (self.value is not None and not self.figure.better(self.last, self.value)):
            return False
        self.step, self.value = self.engine.step, self.last
        if self.keep:
            self._forget()
            self._write()
        return self.keep

    def _forget(self) -> None:
        """Of what checkpoints name, only the newest and the one before it are still of use, should one be damaged."""
        if self.engine.ranks.first:
            for path in sorted(self.folder.glob("*.safetensors"))[:-2]:
                path.unlink()

    def take(self) -> bool:
        """Put the weights of the best step into the model, to be measured and published; False where they are there."""
        other = self.keep and self.step != self.engine.step
        if other:
            with safe_open(self._path, "pt") as stored:
                self.engine.put_weights(stored.get_tensor)
        return other

    @property
    def stats(self) -> dict[str, Json]:
        """For the manifest: the best step with its figure, and the step whose model is published."""
        chosen = self.step if self.keep else self.engine.step
        return {"best": {"step": self.step, self.figure.name: self.value}, "published_step": chosen}

    def complaint(self, stage: str) -> str | None:
        """What is to be said of a last step that is worse than an earlier one."""
        if self.keep or self.value is None or self.last is None or not self.figure.worse(self.last, self.value):
            return None
        name = self.figure.name.replace("_", " ")
        return (
            f"the published model, that of the last step, has a {name} of {self.last:.4g}; that of step {self.step} had "
            f"{self.value:.4g}: it was trained for too long. Set {stage}.publish to best, or train for fewer steps."
        )

    @property
    def _path(self) -> Path:
        return self.folder / f"step-{self.step:08d}.safetensors"

    def _write(self) -> None:
        def write(read: Read) -> None:
            tensors = {name: (shape, self.engine.precision) for name, shape in self.engine.shapes().items()}
            with replacing(self._path) as beside:
                write_safetensors(beside, tensors, read)

        self.engine.read_weights(write)
        dist.barrier()
