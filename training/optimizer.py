"""The optimizer's configuration, its parameter groups, and an update that can be skipped.

Weight decay acts on weight matrices only: not on embeddings, norms and biases, whose scale is the model's own. With
``muon``, the matrices inside the blocks are updated by Muon (see ``training.muon``), everything else by AdamW.

DeepSpeed computes the gradient norm inside ``step`` and updates at once, which leaves no moment to look at the norm
and decline. So the optimizer handed to DeepSpeed asks ``skip`` before it touches anything: when the answer is yes,
``step`` does nothing, neither to weights nor to moments. The answer must be the same on every rank.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from infra.config import Config
from training.muon import Layout, muon_update
from training.schedule import ScheduleConfig


class OptimizerConfig(Config):
    """The optimizer, its peak rate and its schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon for the matrices inside the blocks and adamw for the rest, with one learning rate."""
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
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """muon: decay of the momentum."""
    clip: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; larger gradients are scaled down to it. 0: no clipping."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Warm-up and decay of the rate."""


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters by treatment, each group in the module's own order: Muon's matrices, other weight
    matrices, and what weight decay must not touch.

    A parameter may carry ``lr_scale``, a multiplier of the learning rate (a critic beside its policy): each scale makes
    groups of its own.
    """
    embeddings = {child.weight for child in module.modules() if isinstance(child, nn.Embedding)}
    outputs = {child.output_weight for child in module.modules() if hasattr(child, "output_weight")}
    groups: dict[tuple[float, int], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            # Under ZeRO-3 a parameter's own shape may be empty.
            dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
            if dimensions < 2 or parameter in embeddings:
                treatment = 2
            elif config.name == "muon" and dimensions == 2 and parameter not in outputs:
                treatment = 0
            else:
                treatment = 1
            groups.setdefault((getattr(parameter, "lr_scale", 1.0), treatment), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if treatment == 2 else config.weight_decay,
            "muon": treatment == 0,
            "lr_scale": scale,
        }
        for (scale, treatment), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


class SkippingOptimizer(torch.optim.AdamW):
    """AdamW, and Muon for the groups marked so, whose ``step`` does nothing while ``skip()`` says so."""

    skip: Callable[[], bool] | None = None
    momentum: float = 0.0
    precision: torch.dtype = torch.float32
    """Of Muon's matrix products."""
    layouts: dict[int, Layout] | None = None
    """Where Muon's matrices lie, by ``id`` of the flat parameter; known once DeepSpeed has cut them."""
    # Nothing here is ever compiled, and torch's wrapper around these loads its compiler: two seconds of every rank's start.
    adamw_step = staticmethod(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__  # type: ignore[attr-defined]
    zero_grad = torch.optim.Optimizer.zero_grad.__wrapped__  # type: ignore[attr-defined]
    state_dict = torch.optim.Optimizer.state_dict.__wrapped__  # type: ignore[attr-defined]
    load_state_dict = torch.optim.Optimizer.load_state_dict.__wrapped__  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.skip is not None and self.skip():
            return None
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            self.adamw_step(self, closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for flat in group["params"] if group["muon"] else []:
                if flat.grad is not None and self.layouts is not None:
                    muon_update(
                        flat,
                        self.layouts[id(flat)],
                        self.state[flat],
                        lr=group["lr"],
                        beta=self.momentum,
                        decay=group["weight_decay"],
                        precision=self.precision,
                    )
        return None


def create_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> SkippingOptimizer:
    # One fused pass over DeepSpeed's flat partitions; a torch optimizer also spares DeepSpeed's compiled ones.
    optimizer = SkippingOptimizer(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
    optimizer.momentum = config.momentum
    return optimizer
