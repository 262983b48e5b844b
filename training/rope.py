"""Rotary position embedding, with the three ways in use to stretch it to longer contexts.

Each pair of head dimensions is turned by ``position × frequency``. Attention sees only differences of angles, so a
constant shift of all positions changes nothing. The layout is the one of Hugging Face Llama: dimension ``i`` is paired
with ``i + head_dim / 2``.

Frequencies are computed in float32 at each forward and never stored in the module: a buffer would be cast to bf16
together with the weights, and distant positions would then fall on the same angle.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from infra.config import Config


class RopeScaling(Config):
    """How a model trained on short contexts reads longer ones."""

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    """``linear`` divides every frequency by ``factor``; ``llama3`` divides only the slow ones, with a smooth step;
    ``yarn`` does so with a ramp over the dimensions, and sharpens attention for the longer context."""
    factor: float = Field(default=1.0, ge=1.0)
    """How many times longer the new context is."""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """llama3: wavelengths longer than ``original_max_position / low_freq_factor`` are stretched in full."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """llama3: wavelengths shorter than ``original_max_position / high_freq_factor`` stay as they are."""
    original_max_position: int = Field(default=8192, ge=1)
    """llama3 and yarn: the context the model was first trained on."""
    beta_fast: float = Field(default=32.0, gt=0)
    """yarn: dimensions that turn oftener than this within the first context stay as they are."""
    beta_slow: float = Field(default=1.0, gt=0)
    """yarn: dimensions that turn more rarely than this are stretched in full."""
    truncate: bool = True
    """yarn: begin and end the ramp at whole dimensions."""
    attention_factor: float = Field(default=0.0, ge=0)
    """yarn: what cosine and sine are multiplied by; 0: 0.1 ln(factor) + 1."""

    @property
    def amplitude(self) -> float:
        """The factor of cosine and sine: queries and keys carry it, so that logits carry its square."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling, device: torch.device) -> Tensor:
    """Angular frequency of each of the ``head_dim / 2`` pairs, float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    frequencies = 1.0 / theta**exponents
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling)
    if scaling.kind == "yarn":
        return _yarn(frequencies, head_dim, theta, scaling)
    return frequencies


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies * keep + frequencies / scaling.factor * (1 - keep)


def _yarn(frequencies: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    def dimension(turns: float) -> float:
        """Where a pair turns so many times within the first context; a fraction."""
        return head_dim * math.log(scaling.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    places = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    stretch = ((places - first) / (last - first or 0.001)).clamp(0.0, 1.0)
    return frequencies * (1 - stretch) + frequencies / scaling.factor * stretch


def rope_table(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, amplitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, ``[..., T, head_dim / 2]``, of positions ``[..., T]``; computed in float32."""
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    return (angles.cos() * amplitude).to(dtype), (angles.sin() * amplitude).to(dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn ``heads [B, T, H, head_dim]`` by tables ``[T, head_dim / 2]`` or ``[B, T, head_dim / 2]``."""
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
