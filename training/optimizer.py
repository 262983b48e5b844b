"""The optimizer's configuration, its parameter groups, and an update that can be held back.

Weight decay acts on weight matrices only: not on embeddings, norms and biases, whose scale is the model's own.

DeepSpeed computes the gradient norm inside ``step`` and updates at once, which leaves no moment to look at the norm
and decline. So the optimizer handed to DeepSpeed asks a *hold* before it touches anything: when the answer is yes,
``step`` does nothing, neither to weights nor to moments. The answer must be the same on every rank.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from infra.config import Config
from training.schedule import ScheduleConfig


class OptimizerConfig(Config):
    """The optimizer, its peak rate and its schedule."""

    name: Literal["adamw"] = "adamw"
    """adamw: decoupled weight decay."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of weight matrices; embeddings, norms and biases have none."""
    clip: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; larger gradients are scaled down to it. 0: no clipping."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Warm-up and decay of the rate."""


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters with and without weight decay, each group in the module's own order.

    A parameter may carry ``lr_scale``, a multiplier of the learning rate (a critic beside its policy): each scale makes
    groups of its own.
    """
    embeddings = {
        parameter
        for child in module.modules()
        if isinstance(child, nn.Embedding)
        for parameter in child.parameters(recurse=False)
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            matrix = getattr(parameter, "ds_shape", parameter.shape)
            plain = len(matrix) < 2 or parameter in embeddings
            groups.setdefault((getattr(parameter, "lr_scale", 1.0), plain), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if plain else config.weight_decay, "lr_scale": scale}
        for (scale, plain), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


class HeldAdamW(torch.optim.AdamW):
    """AdamW whose ``step`` does nothing while ``hold()`` says so."""

    hold: Callable[[], bool] | None = None

    def step(self, closure: Any = None) -> Any:
        if self.hold is not None and self.hold():
            return None
        return super().step(closure)


def create_optimizer(module: nn.Module, config: OptimizerConfig) -> HeldAdamW:
    # One fused pass over DeepSpeed's flat partitions; a torch optimizer also spares DeepSpeed's compiled ones.
    return HeldAdamW(
        parameter_groups(module, config),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
