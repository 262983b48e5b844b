"""Tensor parallelism: the ranks of a group share every matrix of a decoder, and the tokens between the matrices.

    tokens                embedding: rows of the vocabulary; the sum of what the ranks found, a stretch of tokens a rank
    stretch of tokens     norms and the residual stream
    all tokens            query, key and value, gate and up projections: heads and inner widths of this rank
    stretch of tokens     output and down projections: the sum over the ranks, a stretch of tokens a rank
    all tokens            what the decoder returns; the loss works on a rank's rows of the vocabulary (``training.loss``)

Norms' weights are whole on every rank, and their gradients summed over the group. Whatever else a model has (a score's
row) all ranks of a group hold and compute alike. A row need not divide by the ranks: the last stretch may be shorter.
"""

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from training.model import Block, Decoder

TOKENS, HEADS = 1, 2
"""Dimensions of ``[batch, tokens, width]`` and ``[batch, tokens, heads, width]``."""


def share_matrices(module: nn.Module, group: DeviceMesh) -> None:
    """Cut the decoders in a module over a group, in place. Every rank must hold the same weights."""
    for decoder in [child for child in module.modules() if isinstance(child, Decoder)]:
        # Every rank cuts its own copy: nothing is sent.
        parallelize_module(decoder, group, _plan(decoder), src_data_rank=None)
        gathered = PrepareModuleOutput(output_layouts=Shard(TOKENS), desired_output_layouts=Replicate())
        parallelize_module(decoder, group, gathered, src_data_rank=None)


def _gathered(arguments: int) -> PrepareModuleInput:
    """All tokens of a module's first argument, of so many."""
    others = (None,) * (arguments - 1)
    return PrepareModuleInput(input_layouts=(Shard(TOKENS), *others), desired_input_layouts=(Replicate(), *others))


def _plan(decoder: Decoder) -> dict[str, Any]:
    divided = PrepareModuleOutput(
        output_layouts=Replicate(), desired_output_layouts=Shard(TOKENS), use_local_output=False
    )
    stretch: dict[str, Any] = {"output_layouts": Shard(TOKENS), "use_local_output": False}
    inner = ColwiseParallel()
    # A later stage of a pipeline is given the hidden states of all tokens.
    embedding = RowwiseParallel(input_layouts=Replicate(), **stretch)
    plan = {
        "embed_tokens": embedding if isinstance(decoder.embed_tokens, nn.Embedding) else divided,
        "norm": SequenceParallel(),
    }
    of_block = {
        "input_layernorm": SequenceParallel(),
        "post_attention_layernorm": SequenceParallel(),
        # Gathered once for all projections, whose gradients are summed before they are scattered once.
        "self_attn": _gathered(6),
        "mlp": _gathered(1),
        **{f"self_attn.{name}_proj": inner for name in "qkv"},
        "self_attn.o_proj": RowwiseParallel(**stretch),
        "mlp.gate_proj": inner,
        "mlp.up_proj": inner,
        "mlp.down_proj": RowwiseParallel(**stretch),
    }
    if decoder.config.qk_norm:
        of_heads = SequenceParallel(sequence_dim=HEADS, use_local_output=True)
        of_block |= {f"self_attn.{name}_norm": of_heads for name in "qk"}
    for index in (index for index, block in enumerate(decoder.layers) if isinstance(block, Block)):
        plan |= {f"layers.{index}.{name}": style for name, style in of_block.items()}
    if decoder.lm_head is not None:
        plan["lm_head"] = ColwiseParallel()
    return plan
