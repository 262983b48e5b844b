"""Low-rank adapters (LoRA, arXiv 2106.09685): the model's matrices stay, and each learns a product of two thin ones.

    W x  becomes  W x + (alpha / rank) · B (A x),   A [rank, in] drawn at random, B [out, rank] zero

so that the model starts as it was. Only A and B are trained: gradients and optimizer states are a hundredth of the
model's. What is published is merged, ``W + (alpha / rank) · B A``, a model like any other; the adapters lie beside it in
the format of ``peft``, to be put over the model they were made for.
"""

import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from infra.config import Config
from infra.store.files import write_bytes
from training.deferred import home
from training.engine import Read
from training.model import Decoder, generator_of

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


class LoraConfig(Config):
    """Which matrices get adapters, and how large."""

    rank: int = Field(default=0, ge=0)
    """Width of the adapters; 0: none, all weights are trained. Rates are then some ten times those of a full training."""
    alpha: float = Field(default=16.0, gt=0)
    """The adapters' product is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are left out in training."""
    targets: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """The matrices of each block that get one."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoraLinear(nn.Module):
    """A linear layer that is not trained, with an adapter that is. Its weight keeps its name."""

    def __init__(self, layer: nn.Linear, config: LoraConfig, name: str, seed: int) -> None:
        super().__init__()
        self.weight, self.bias, self.scale, self.dropout = layer.weight, layer.bias, config.scale, config.dropout
        (outputs, inputs), dtype, device = layer.weight.shape, layer.weight.dtype, home(layer.weight)
        drawn = torch.empty(config.rank, inputs)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator_of(seed, f"lora/{name}"))
        self.lora_A = nn.Parameter(drawn.to(device, dtype))
        self.lora_B = nn.Parameter(torch.zeros(outputs, config.rank, device=device, dtype=dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        seen = F.dropout(hidden, self.dropout, self.training)
        return F.linear(hidden, self.weight, self.bias) + self.scale * F.linear(
            F.linear(seen, self.lora_A), self.lora_B
        )


def add_adapters(decoder: Decoder, config: LoraConfig, seed: int) -> None:
    """Put adapters over the model's matrices; nothing else is trained any more."""
    decoder.requires_grad_(False)
    for name, module in list(decoder.named_modules()):
        for target in config.targets:
            if isinstance(layer := getattr(module, target, None), nn.Linear):
                setattr(module, target, LoraLinear(layer, config, f"{name}.{target}", seed))


def adapted(model: nn.Module) -> list[str]:
    """Names of the layers that have an adapter."""
    return [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]


def merged(read: Read, config: LoraConfig, layers: Collection[str]) -> Read:
    """Reads the weights of a model without adapters that says the same, computed in float32."""

    def weight(name: str) -> Tensor:
        found, layer = read(name), name.removesuffix(".weight")
        if layer not in layers:
            return found
        product = read(f"{layer}.lora_B").float() @ read(f"{layer}.lora_A").float()
        return (found.float() + config.scale * product).to(found.dtype)

    return weight


def save_adapters(read: Read, config: LoraConfig, layers: Iterable[str], folder: Path, base: str) -> list[str]:
    """Write the adapters as ``peft.PeftModel.from_pretrained`` reads them; returns the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.model.{layer}.lora_{side}.weight": read(f"{layer}.lora_{side}").cpu().contiguous()
        for layer in layers
        for side in "AB"
    }
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_bytes(folder / SETTINGS, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())
    return [WEIGHTS, SETTINGS]
