"""Causal self-attention with grouped key/value heads, over whole sequences, packed rows or a key/value cache.

Four situations:

* one document a row: a causal kernel, no mask in memory;
* packed rows on a GPU: the documents of all rows one behind the other, for a kernel of variable lengths, which does
  no work between documents;
* packed rows elsewhere: a boolean mask lets a token see only earlier tokens of its own document; short ones in half
  precision are multiplied out, for on a CPU the kernel's backward pass takes three times as long as its products;
* generation: keys and values of earlier tokens come from a ``KVCache``.

Positions are not reset at document boundaries of a packed row: rotary attention depends on differences of positions
only, so the mask alone makes a packed document equal to the same document on its own (tested).
"""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.context_parallel import Context
from training.rope import rotate

BLOCK = 64
"""Keys that attention takes at a time. With whole blocks, what is masked behind a row adds exact zeros to its sums; with
parts of blocks, a row's last bits would depend on how long its neighbours are."""
EXPLICIT_TOKENS = 512
"""Packed rows up to this length are multiplied out on a CPU; the scores of longer ones would take too much memory."""
PROMPT_BLOCK = 16
"""The same for a first forward without a mask: whole vectors are enough there."""


class KVCache:
    """Keys and values of the tokens seen so far, in memory allocated once.

    Every row begins at slot 0 and has a length of its own: what a token of a row sees lies in the same slots whatever the
    other rows are. The first forward takes prompts padded on the right; ``prompt_lengths`` says what of them is real.
    Slots behind a row's length are masked, and overwritten as the row grows.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        prompt_lengths: Sequence[int] | None = None,
    ) -> None:
        shape = (layers, batch, kv_heads, whole_blocks(capacity), head_dim)
        # Zeros, not empty: a masked slot still takes part in a product with weight 0, and 0 × NaN is NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.prompt_lengths = prompt_lengths
        self.lengths = [0] * batch
        self._places: Tensor | None = None

    @property
    def empty(self) -> bool:
        return not any(self.lengths)

    def positions(self, tokens: int) -> Tensor:
        """Places of the next ``tokens`` tokens of each row, ``[B, T]``."""
        if self._places is None or self._places.shape[1] != tokens:
            first = torch.tensor(self.lengths, device=self.keys.device)
            self._places = first.unsqueeze(1) + torch.arange(tokens, device=self.keys.device)
        return self._places

    def seen(self, tokens: int) -> int:
        """Slots that the next ``tokens`` tokens may look at: whole blocks, so that sums have one shape for all lengths."""
        return min(whole_blocks(max(self.lengths) + tokens), self.keys.shape[3])

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values ``[B, H, T, D]``; return what attention goes over. ``advance`` once a
        forward."""
        tokens = keys.shape[2]
        if self.empty:
            self.keys[layer, :, :, :tokens] = keys
            self.values[layer, :, :, :tokens] = values
            return keys, values
        slots = self.positions(tokens)[:, None, :, None].expand_as(keys)
        end = self.seen(tokens)
        rows = len(self.lengths)
        known = self.keys[layer, :rows].scatter_(2, slots, keys), self.values[layer, :rows].scatter_(2, slots, values)
        return known[0][:, :, :end], known[1][:, :, :end]

    def advance(self, tokens: int) -> None:
        self._places = None
        if self.empty and self.prompt_lengths is not None:
            self.lengths = list(self.prompt_lengths)
        else:
            self.lengths = [length + tokens for length in self.lengths]

    def adopt(self, part: "KVCache", rows: Sequence[int], picked: Sequence[int]) -> None:
        """Take rows ``picked`` of another cache as these rows of this one."""
        slots = min(part.keys.shape[3], self.keys.shape[3])
        self.keys[:, rows, :, :slots] = part.keys[:, picked, :, :slots]
        self.values[:, rows, :, :slots] = part.values[:, picked, :, :slots]
        for row, place in zip(rows, picked, strict=True):
            self.lengths[row] = part.lengths[place]
        self._places = None

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all rows but these: sequences that have ended need no more work."""
        index = torch.tensor(rows, device=self.keys.device)
        self.keys, self.values = self.keys[:, index], self.values[:, index]
        self.lengths = [self.lengths[row] for row in rows]
        self._places = None


class RowCache(KVCache):
    """A cache whose rows come and go: those in use are its first. The last one takes the place of one that leaves, and the
    rows' memory doubles when the longest fills it: nothing is copied for a token."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lengths = []

    def join(self, part: KVCache, picked: Sequence[int]) -> None:
        """Add rows ``picked`` of another cache."""
        first = len(self.lengths)
        self.lengths += [0] * len(picked)
        self.make_room(max(part.lengths[row] for row in picked))
        self.adopt(part, list(range(first, len(self.lengths))), picked)

    def leave(self, row: int) -> None:
        last = len(self.lengths) - 1
        if row != last:
            used = slice(self.lengths[last])
            self.keys[:, row, :, used] = self.keys[:, last, :, used]
            self.values[:, row, :, used] = self.values[:, last, :, used]
            self.lengths[row] = self.lengths[last]
        del self.lengths[last]
        self._places = None

    def make_room(self, length: int) -> None:
        """Memory for rows of this length."""
        capacity = self.keys.shape[3]
        if length > capacity:
            more = max(whole_blocks(length), 2 * capacity) - capacity
            self.keys, self.values = (F.pad(kept, (0, 0, 0, more)) for kept in (self.keys, self.values))


def whole_blocks(slots: int, block: int = BLOCK) -> int:
    """Rounded up to whole blocks of the attention kernel."""
    return -(-slots // block) * block


@dataclass(frozen=True)
class Visibility:
    """Who sees whom, built once a forward and shared by all layers."""

    causal: bool = False
    mask: Tensor | None = None
    """``[B, 1, T, S]``, True = visible."""
    bias: Tensor | None = None
    """The same, added to the scores: 0 or minus infinity. Attention is multiplied out."""
    documents: Tensor | None = None
    """Where the documents begin when all rows stand one behind the other, and the end of the last (int32)."""
    grouped: bool = False
    """Tell the documents' kernel of grouped heads. Found out here, because a compiler does not look into signatures."""
    context: Context | None = None
    """The ranks that share these sequences."""


def visibility(
    hidden: Tensor, segments: Tensor | None, cache: KVCache | None, context: Context | None = None
) -> Visibility:
    """The attention pattern of a forward over ``hidden [B, T, …]``, of ranks that share sequences over all of them."""
    tokens, device = hidden.shape[1], hidden.device
    if cache is not None:
        return _cached_visibility(tokens, cache, device)
    if context is not None:
        return replace(_packed_visibility(hidden, tokens * context.size, segments), context=context)
    return _packed_visibility(hidden, tokens, segments)


def _packed_visibility(hidden: Tensor, tokens: int, segments: Tensor | None) -> Visibility:
    device = hidden.device
    if segments is None or (device.type == "cpu" and bool((segments == segments[:, :1]).all())):
        return Visibility(causal=tokens > 1)
    if has_document_kernel(hidden):
        return Visibility(documents=document_starts(segments), grouped=asks_for_groups())
    mask = document_mask(segments)
    if device.type == "cpu" and hidden.dtype == torch.bfloat16 and tokens <= EXPLICIT_TOKENS:
        return Visibility(bias=torch.zeros_like(mask, dtype=hidden.dtype).masked_fill_(~mask, float("-inf")))
    return Visibility(mask=mask)


def document_mask(segments: Tensor) -> Tensor:
    """``[B, 1, T, T]``: same document, and not later."""
    tokens = segments.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=segments.device).tril()
    return ((segments.unsqueeze(2) == segments.unsqueeze(1)) & causal).unsqueeze(1)


def document_starts(segments: Tensor) -> Tensor:
    """Places in the flattened rows where a document (or a row) begins, and their total length."""
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([segments.numel()])]).to(torch.int32)


def _cached_visibility(tokens: int, cache: KVCache, device: torch.device) -> Visibility:
    if cache.empty:
        return Visibility(causal=True)
    slots = torch.arange(cache.seen(tokens), device=device)
    return Visibility(mask=(slots <= cache.positions(tokens).unsqueeze(-1)).unsqueeze(1))


class Attention(nn.Module):
    """Projections, optional RMS norm of queries and keys per head, rotation, attention, output projection."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        norm_eps: float,
        qk_norm: bool = False,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q_proj = nn.Linear(hidden, heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
        self.q_norm = nn.RMSNorm(head_dim, norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, norm_eps) if qk_norm else None
        self.joined = False
        """Multiply by the three input matrices as by one. On a GPU the backward pass then makes one gradient of the input
        instead of three that must be added; on a CPU, whose products are slow, it changes only the last bits."""

    def forward(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        seen: Visibility,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        batch, tokens, _ = hidden.shape
        flat = self._joined(hidden) if self.joined else (self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
        queries, keys, values = (part.view(batch, tokens, -1, self.head_dim) for part in flat)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        if seen.context is not None:
            queries, keys, values = seen.context.scatter(queries, keys, values)
        if seen.documents is not None:
            mixed = attend_documents(queries, keys, values, seen.documents, seen.grouped)
        elif seen.bias is not None:
            mixed = attend_explicitly(queries, keys, values, seen.bias)
        else:
            keys, values = keys.transpose(1, 2), values.transpose(1, 2)
            if cache is not None:
                keys, values = cache.store(layer, keys, values)
            mixed = F.scaled_dot_product_attention(
                queries.transpose(1, 2),
                keys,
                values,
                attn_mask=seen.mask,
                is_causal=seen.causal,
                enable_gqa=queries.shape[2] != keys.shape[1],
            ).transpose(1, 2)
        if seen.context is not None:
            mixed = seen.context.collect(mixed)
        output: Tensor = self.o_proj(mixed.reshape(batch, tokens, -1))
        return output

    def _joined(self, hidden: Tensor) -> tuple[Tensor, ...]:
        layers = (self.q_proj, self.k_proj, self.v_proj)
        bias = None if self.q_proj.bias is None else torch.cat([layer.bias for layer in layers])
        product = F.linear(hidden, torch.cat([layer.weight for layer in layers]), bias)
        return torch.split(product, [layer.out_features for layer in layers], -1)


def attend_documents(queries: Tensor, keys: Tensor, values: Tensor, documents: Tensor, grouped: bool) -> Tensor:
    """Causal attention of ``[B, T, H, D]`` inside each document, by FlashAttention's kernel of variable lengths."""
    from torch.nn.attention.varlen import varlen_attn  # needs a CUDA build

    batch, tokens, heads, width = queries.shape
    told: dict[str, Any] = {"enable_gqa": heads != keys.shape[2]} if grouped else {}
    mixed = varlen_attn(
        queries.reshape(-1, heads, width),
        keys.reshape(-1, keys.shape[2], width),
        values.reshape(-1, values.shape[2], width),
        documents,
        documents,
        tokens,  # no document is longer than its row
        tokens,
        window_size=(-1, 0),  # nothing later than itself
        **told,
    )
    assert isinstance(mixed, Tensor)  # it returns more only when asked
    return mixed.view(batch, tokens, heads, width)


def attend_explicitly(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of ``[B, T, H, D]`` written out: scores, ``bias`` added, softmax, mixture. The query heads that share a
    key head are rows of one product."""
    batch, tokens, heads, width = queries.shape
    kv_heads = keys.shape[2]
    shared = heads // kv_heads
    grouped = (queries * width**-0.5).view(batch, tokens, kv_heads, shared, width).permute(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch * kv_heads, shared * tokens, width)
    scores = rows @ keys.permute(0, 2, 3, 1).reshape(batch * kv_heads, width, tokens)
    weights = torch.softmax(scores.view(batch, heads, tokens, tokens) + bias, -1)
    mixed = weights.view(batch * kv_heads, shared * tokens, tokens) @ values.transpose(1, 2).reshape(
        batch * kv_heads, tokens, width
    )
    return mixed.view(batch, kv_heads, shared, tokens, width).permute(0, 3, 1, 2, 4).reshape(queries.shape)


@functools.cache
def asks_for_groups() -> bool:
    """Whether the documents' kernel must be told of grouped heads: before PyTorch 2.12 it took them without a word."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def has_document_kernel(hidden: Tensor) -> bool:
    """FlashAttention: half precision, Ampere or later."""
    if hidden.device.type != "cuda" or hidden.dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(hidden.device) >= (8, 0)
