"""A decoder's weights, one at a time: whatever they lie in, no more than the largest of them is in memory.

weights = open_weights(folder)          (``training.hub_format``; or ``checkpoint_weights``, ``Weights.of(decoder)`` or ``fresh``)
weights.deferred()                      a decoder that is read when an engine has it
write_safetensors(path, {name: (shape, dtype)}, weights.read)
weights.logits(row)                     a forward pass, for which a block at a time is read
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.deferred import defer
from training.model import Decoder, ModelConfig, first_weight
from training.parallel import Checkpointing

NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Of types in safetensors' headers."""


@dataclass(frozen=True)
class Weights:
    """The weights of a decoder by their names in it, each read when it is asked for."""

    config: ModelConfig
    dtype: torch.dtype
    read: Callable[[str], Tensor]

    @classmethod
    def fresh(cls, config: ModelConfig, seed: int) -> "Weights":
        """As ``build_model`` draws them."""
        with torch.device("meta"):
            shapes = {name: weight.shape for name, weight in Decoder(config).state_dict().items()}
        return cls(config, torch.float32, lambda name: first_weight(name, shapes[name], config, seed))

    @classmethod
    def of(cls, decoder: Decoder) -> "Weights":
        there = decoder.state_dict()
        kind = next(iter(there.values())).dtype
        return cls(decoder.config, kind, lambda name: there[name].detach().to("cpu", kind))

    def shapes(self) -> dict[str, torch.Size]:
        return {name: weight.shape for name, weight in self._empty().state_dict().items()}

    def deferred(self, checkpointing: Checkpointing = "none") -> Decoder:
        """A decoder for ``training.create_engine``, which reads the weights."""
        return defer(self._empty(checkpointing), self.read)

    @torch.no_grad()
    def logits(self, row: Tensor) -> Tensor:
        """What the model says to ``row [1, T]``."""
        decoder = self._empty().eval()
        parts = {"embed_tokens": decoder.embed_tokens, "norm": decoder.norm}
        parts |= {f"layers.{index}": block for index, block in enumerate(decoder.layers)}
        for name, part in parts.items():
            part.register_forward_pre_hook(self._fetch(name))
            part.register_forward_hook(_forget)
        hidden = decoder(row)
        return F.linear(hidden, self.read(f"{'embed_tokens' if decoder.lm_head is None else 'lm_head'}.weight"))

    def _empty(self, checkpointing: Checkpointing = "none") -> Decoder:
        with torch.device("meta"):
            return Decoder(self.config, checkpointing).to(self.dtype)

    def _fetch(self, prefix: str) -> Callable[[nn.Module, Any], None]:
        def fetch(module: nn.Module, _: Any) -> None:
            module.load_state_dict({name: self.read(f"{prefix}.{name}") for name in module.state_dict()}, assign=True)

        return fetch


def _forget(module: nn.Module, *_: Any) -> None:
    module.to("meta")


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[torch.Size, torch.dtype]], read: Callable[[str], Tensor]
) -> None:
    """A file of safetensors, the bytes that its library would write, while one tensor after the other is read."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    order = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, NAMES[tensors[name][1]], name))
    for name in order:
        shape, dtype = tensors[name]
        start, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            # No name for it: it is gone before the next one is read.
            stream.write(read(name).to("cpu", tensors[name][1]).contiguous().view(torch.uint8).numpy().data)
