"""The decoder: Llama's architecture, its weights interchangeable with Hugging Face.

    token ids -> embedding -> layers × [RMSNorm, attention, RMSNorm, SwiGLU] -> RMSNorm -> hidden states

``Decoder.forward`` returns hidden states, never logits: ``training.loss`` turns them into losses and log-probabilities
chunk by chunk, so that a ``[tokens, vocabulary]`` matrix never exists. Parameters bear the names of Hugging Face's
Llama, less the leading ``model.``.

Modules hold no buffers and the constructor draws no random numbers that matter: build on any device, the meta device
included, and call ``init_weights`` once the parameters have memory. ``build_model`` does both.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from infra.config import Config
from infra.errors import InputError
from training.attention import Attention, KVCache, Visibility, visibility
from training.context_parallel import Context
from training.parallel import Checkpointing, ParallelConfig
from training.rope import RopeScaling, rope_frequencies, rope_table

KEPT = ("aten::addmm", "aten::_scaled_mm", "_c10d_functional::reduce_scatter_tensor")
"""Operations beside ``aten::mm`` and attention whose results selective checkpointing keeps."""


class ModelConfig(Config):
    """The shape of a decoder. The defaults are a few million parameters: minutes of training on two cores."""

    vocab_size: int = Field(default=4096, ge=1)
    """Rows of the embedding; pretraining takes it from the tokenizer."""
    hidden_size: int = Field(default=256, ge=2)
    """Width of the residual stream."""
    layers: int = Field(default=4, ge=1)
    """Number of blocks."""
    heads: int = Field(default=4, ge=1)
    """Query heads."""
    kv_heads: int = Field(default=2, ge=1)
    """Key/value heads; each serves ``heads / kv_heads`` query heads."""
    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head; default ``hidden_size / heads``."""
    intermediate_size: int = Field(default=704, ge=1)
    """Width inside the feed-forward block."""
    max_position: int = Field(default=2048, ge=1)
    """Longest context the model is declared for."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling = RopeScaling()
    """Stretching of the rotary frequencies to longer contexts."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added under the root in RMS norms."""
    tie_embeddings: bool = True
    """Use the embedding matrix for the output as well."""
    qk_norm: bool = False
    """RMS norm of queries and keys per head: steadier at high learning rates. Exported as the Qwen3 architecture."""
    qkv_bias: bool = False
    """Biases of the query, key and value projections, as the Qwen2 architecture has them; exported as such."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the first weights; projections back into the residual stream get 1/√(2·layers) of it."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> "ModelConfig":
        if self.head_dim is None and self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.width_of_head % 2:
            raise ValueError(f"the width of a head is {self.width_of_head}; rotary embedding needs an even one")
        if self.qk_norm and self.qkv_bias:
            raise ValueError("qk_norm and qkv_bias exclude each other: no architecture elsewhere has both")
        return self

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.hidden_size // self.heads


class FeedForward(nn.Module):
    """SwiGLU: a gated feed-forward block."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int, checkpointing: Checkpointing = "none") -> None:
        super().__init__()
        self.index = index
        self.checkpointing = checkpointing
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(
            config.hidden_size,
            config.heads,
            config.kv_heads,
            config.width_of_head,
            config.norm_eps,
            config.qk_norm,
            config.qkv_bias,
        )
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, seen: Visibility, cache: KVCache | None = None
    ) -> Tensor:
        if self.checkpointing == "none" or not (self.training and torch.is_grad_enabled()):
            return self._layer(hidden, cos, sin, seen, cache)
        # Inside the block, that a compiler sees it.
        how: dict[str, Any] = {"use_reentrant": False}
        if self.checkpointing == "selective":
            how["context_fn"] = functools.partial(keep_products, self.mlp.down_proj.in_features)
        output: Tensor = checkpoint(self._layer, hidden, cos, sin, seen, cache, **how)
        return output

    def _layer(self, hidden: Tensor, cos: Tensor, sin: Tensor, seen: Visibility, cache: KVCache | None) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin, seen, cache, self.index)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


def keep_products(inner: int) -> Any:
    """What selective checkpointing keeps of a block: what attention and matrix products made.

    Not the last product (of ``inner`` width), for whose result nobody asks a second time. Where ranks share the matrices, not
    those that are a part of a sum either: the sum is kept, of which each rank has a stretch.
    """

    def policy(context: Any, op: Any, *arguments: Any, **_: Any) -> CheckpointPolicy:
        name = op.name()
        if name == "aten::mm":
            left = arguments[0]
            summed = any(placed.is_shard(left.ndim - 1) for placed in getattr(left, "placements", ()))
            kept = not summed and left.shape[-1] != inner
        else:
            kept = name in KEPT or "attention" in name or "attn" in name
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


class Decoder(nn.Module):
    """The model. ``checkpointing`` trades a second forward, or the cheap part of one, for the memory of the blocks'
    activations."""

    def __init__(self, config: ModelConfig, checkpointing: Checkpointing = "none") -> None:
        super().__init__()
        self.config = config
        self.compiled = False
        # Its own first values are never used; drawing them where there is no memory yet loads torch's compiler, a second.
        weight = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens: nn.Embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.layers = nn.ModuleList(Block(config, index, checkpointing) for index in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def output_weight(self) -> nn.Parameter:
        """The ``[vocabulary, hidden]`` matrix that turns hidden states into logits."""
        head = self.embed_tokens if self.lm_head is None else self.lm_head
        return cast(nn.Parameter, head.weight)

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        context: Context | None = None,
    ) -> Tensor:
        """Hidden states ``[B, T, hidden]`` of ``input_ids [B, T]``.

        ``segments [B, T]`` gives each token of a packed row the number of its document: documents do not see each
        other. Padding gets a number of its own. ``positions`` (``[T]`` or ``[B, T]``) default to the place in the
        row, or in the cache. Ranks of a ``context`` have each a part of the rows, say where it lies, and know all segments.
        """
        tokens = input_ids.shape[1]
        hidden: Tensor = self.embed_tokens(input_ids)
        if positions is None and cache is not None:
            positions = cache.positions(tokens)
        elif positions is None:
            positions = torch.arange(tokens, device=input_ids.device)
        frequencies = rope_frequencies(
            self.config.width_of_head, self.config.rope_theta, self.config.rope_scaling, input_ids.device
        )
        cos, sin = rope_table(positions, frequencies, hidden.dtype, self.config.rope_scaling.amplitude)
        seen = visibility(hidden, segments, cache, context)
        for block in self.layers:
            hidden = block(hidden, cos, sin, seen, cache)
        if cache is not None:
            cache.advance(tokens)
        output: Tensor = self.norm(hidden)
        return output

    def compile(self, *arguments: Any, **settings: Any) -> None:
        """Compile the blocks, which share one piece of code; masks depend on the data and stay outside."""
        self.compiled = True
        for block in self.layers:
            block.compile(*arguments, **settings)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the given hidden states: for a few positions only (generation, tests)."""
        return F.linear(hidden, self.output_weight)

    def new_cache(self, batch: int, capacity: int, prompt_lengths: Sequence[int] | None = None) -> KVCache:
        weight = self.embed_tokens.weight
        return KVCache(
            self.config.layers,
            batch,
            self.config.kv_heads,
            capacity,
            self.config.width_of_head,
            weight.dtype,
            weight.device,
            prompt_lengths,
        )

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill every parameter. Each is drawn from a generator of its own, so its values depend on the seed and its
        name only, not on the order, the device or which rank holds it."""
        for name, parameter in self.named_parameters():
            parameter.copy_(first_weight(name, parameter.shape, self.config, seed))


def first_weight(name: str, shape: torch.Size, config: ModelConfig, seed: int) -> Tensor:
    """The first values of one parameter, on the CPU in float32: the same whatever the device and precision of the model."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0)
    std = config.init_std
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std /= (2 * config.layers) ** 0.5
    return torch.randn(shape, generator=generator_of(seed, name)).mul_(std)


def generator_of(seed: int, name: str) -> torch.Generator:
    """A parameter's own random numbers."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def build_model(
    config: ModelConfig,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    checkpointing: Checkpointing = "none",
) -> Decoder:
    """A decoder with fresh weights, allocated once."""
    with torch.device("meta"):
        decoder = Decoder(config, checkpointing)
    # As ``to_empty``, which loads sympy: as long as a small model's first steps.
    empty = {
        name: torch.empty(weight.shape, dtype=dtype, device=device) for name, weight in decoder.state_dict().items()
    }
    decoder.load_state_dict(empty, assign=True)
    decoder.init_weights(seed)
    return decoder


def decoders_of(model: nn.Module) -> dict[str, Decoder]:
    """The decoders within a model, by what the names of their weights begin with. The first is the one that is published."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, Decoder)}
    return {f"{name}." * bool(name): part for name, part in found.items()}


def parameter_count(config: ModelConfig) -> int:
    """Number of parameters of a decoder of this shape (tied matrices once), without building it."""
    heads, kv = config.heads * config.width_of_head, config.kv_heads * config.width_of_head
    block = 2 * config.hidden_size * (heads + kv) + 3 * config.hidden_size * config.intermediate_size
    block += 2 * config.hidden_size + (2 * config.width_of_head if config.qk_norm else 0)
    block += heads + 2 * kv if config.qkv_bias else 0
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_embeddings else 2)
    return embeddings + config.layers * block + config.hidden_size


def check_shape(config: ModelConfig, parallel: ParallelConfig, sequences: int) -> None:
    """Raises ValueError, with numbers that would fit, where a decoder of this shape cannot be shared out, or so many
    ``sequences`` a step and group of ranks."""
    parallel.check_stages(config.layers, sequences)
    parallel.check_widths(kv_heads=config.kv_heads, heads=config.heads, intermediate_size=config.intermediate_size)
    parallel.check_heads(config.heads, config.kv_heads)


def check_length(config: ModelConfig, tokens: int) -> None:
    """Refuse sequences longer than the model is declared for."""
    if tokens > config.max_position:
        raise InputError(
            f"a sequence of {tokens} tokens is longer than the model's {config.max_position} positions",
            remedy="Shorten it, or train or export with a larger max_position.",
        )
