"""From hidden states to losses without ever holding the full logits.

With a vocabulary of 128k, the logits of one 8k-token sequence take 4 GB in float32, and their gradient as much again.
Here the output projection is applied to a chunk of tokens at a time. The gradient of a *sum* of token losses with
respect to each chunk's logits is known as soon as they are (softmax minus one-hot), so the gradients of the hidden
states and of the weight are made in the forward pass and only scaled in the backward: no logits kept, none recomputed.

On an accelerator a compiled form of the same formulas reads a chunk's logits twice and writes their gradient once, in
the logits' own precision: written out operation by operation, the float32 copies cost more than the matrix products.

The output matrix may lie in slices of the vocabulary on the ranks of a tensor group (a DTensor). Then a chunk's logits
exist in slices as well; the ranks exchange three numbers a token, highest logit, partition and chosen logit, and in the
end sum the gradients of the hidden states, which all of them hold in full. Log-probabilities are made in the same way.

All reductions are in float32. Sums are returned with their counts: the caller divides once by the number of tokens of
the whole optimizer step, on all ranks.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CPU_TOKENS = 512
"""Tokens in a chunk on a CPU: enough to make up for adding to the weight's gradient once a chunk."""
GPU_LOGITS = 1 << 26
"""Logits held at a time on an accelerator: 256 MB in float32, large enough that the matrix products fill it."""
FUSED_LOGITS = 1 << 28
"""The same for the compiled form, which holds them and their gradient in half precision only: 512 MB each. Fewer chunks
add to the weight's float32 gradient less often."""


def chunk_tokens(vocabulary: int, device: torch.device, fused: bool = False) -> int:
    """Tokens in a chunk for a vocabulary of this size."""
    logits = FUSED_LOGITS if fused else GPU_LOGITS
    return CPU_TOKENS if device.type == "cpu" else max(1024, logits // vocabulary)


def chunked_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    z_loss: float = 0.0,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """Summed next-token loss and the number of tokens in it.

    ``hidden [..., D]`` predicts ``targets [...]`` (already shifted by the caller) where ``mask`` (bool, or weights)
    is not zero; the count is the mask's sum. ``z_loss`` adds that multiple of the squared log-partition of each token,
    which keeps logits from drifting; 1e-5 to 1e-4 is usual. ``fused`` takes the compiled form where the tensors are on an
    accelerator: the same values within rounding.
    """
    width = hidden.shape[-1]
    weight, part = _own_slice(weight)
    flat_mask = torch.ones_like(targets, dtype=torch.float32) if mask is None else mask.to(torch.float32)
    arguments = (
        hidden.reshape(-1, width),
        weight,
        targets.reshape(-1),
        flat_mask.reshape(-1),
        z_loss,
        fused and weight.is_cuda and part is None,
        part,
    )
    total: Tensor = _SummedLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return total, flat_mask.sum()


@dataclass(frozen=True)
class _Slice:
    """The rows of the output matrix that this rank of a group has."""

    first: int
    rows: int
    group: Any

    def sum(self, values: Tensor, reduction: Any = dist.ReduceOp.SUM) -> Tensor:
        dist.all_reduce(values, reduction, group=self.group)
        return values

    def known(self, values: Tensor) -> Tensor:
        """What all ranks know alike, before each makes something else of it: the gradients of that are summed."""
        known: Tensor = _Known.apply(values, self)  # type: ignore[no-untyped-call]
        return known

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the ranks, of which all then make the same."""
        total: Tensor = _Summed.apply(values, self)  # type: ignore[no-untyped-call]
        return total


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, vocabulary: _Slice) -> Tensor:
        ctx.vocabulary = vocabulary
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.vocabulary.sum(grads[0].clone()), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, vocabulary: _Slice) -> Tensor:
        return vocabulary.sum(values.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _own_slice(weight: Any) -> tuple[Tensor, _Slice | None]:
    mesh = getattr(weight, "device_mesh", None)
    if mesh is None:
        return weight, None
    rows = weight.shape[0] // mesh.size()
    return weight.to_local(), _Slice(rows * mesh.get_local_rank(), rows, mesh.get_group())


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor,
        z_loss: float,
        fused: bool,
        vocabulary: _Slice | None,
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        # Accumulated in float32: hundreds of chunks summed in bf16 would lose the small ones.
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = chunk_tokens(weight.shape[0], weight.device, fused)
        loss_of = _compiled() if fused else functools.partial(_loss_of_chunk, vocabulary=vocabulary)
        for start in range(0, hidden.shape[0], size):
            part = slice(start, start + size)
            logits = F.linear(hidden[part], weight)
            loss, grad = loss_of(logits, targets[part], mask[part], z_loss, wants_hidden or wants_weight)
            total += loss
            if grad is None:
                continue
            if hidden_grad is not None:
                torch.mm(grad, weight, out=hidden_grad[part])
            if weight_grad is not None:
                if grad.dtype == torch.float32:
                    weight_grad.addmm_(grad.t(), hidden[part])
                else:
                    weight_grad += grad.t() @ hidden[part]
        if hidden_grad is not None and vocabulary is not None:
            vocabulary.sum(hidden_grad)
        ctx.hidden_grad, ctx.weight_grad, ctx.weight_dtype = hidden_grad, weight_grad, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        hidden_grad = None if ctx.hidden_grad is None else ctx.hidden_grad.mul_(scale.to(ctx.hidden_grad.dtype))
        weight_grad = None if ctx.weight_grad is None else ctx.weight_grad.mul_(scale).to(ctx.weight_dtype)
        ctx.hidden_grad = ctx.weight_grad = None
        return hidden_grad, weight_grad, None, None, None, None, None


def _loss_of_chunk(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    z_loss: float,
    wants_grad: bool,
    vocabulary: _Slice | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Summed loss of ``logits [T, V]``, and its gradient with respect to them. Float32 logits are overwritten."""
    dtype = logits.dtype
    logits = logits.float()
    hits = mask
    if vocabulary is not None:
        targets = targets - vocabulary.first
        here = (targets >= 0) & (targets < vocabulary.rows)
        targets, hits = targets.clamp(0, vocabulary.rows - 1), mask * here
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    # One pass of exponentials serves both the partition function and the gradient.
    highest = logits.amax(-1, keepdim=True)
    if vocabulary is not None:
        vocabulary.sum(highest, dist.ReduceOp.MAX)
    exponentials = logits.sub_(highest).exp_()
    partition = exponentials.sum(-1, keepdim=True)
    if vocabulary is not None:
        chosen, partition = vocabulary.sum(torch.stack([chosen * here, partition.squeeze(-1)]))
        partition = partition.unsqueeze(-1)
    log_partition = (highest + partition.log()).squeeze(-1)
    losses = log_partition - chosen + z_loss * log_partition.square()
    total = (losses * mask).sum()
    if not wants_grad:
        return total, None
    scale = mask * (1 + 2 * z_loss * log_partition)
    grad = exponentials.mul_(scale.unsqueeze(-1) / partition)
    grad.scatter_add_(-1, targets.unsqueeze(-1), -hits.unsqueeze(-1))
    return total, grad.to(dtype)


@functools.cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor | None]]:
    return torch.compile(fusable_loss)


def fusable_loss(
    logits: Tensor, targets: Tensor, mask: Tensor, z_loss: float, wants_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """As ``_loss_of_chunk``, written for a compiler: nothing is changed in place, so that all of it is one kernel."""
    exact = logits.float()
    log_partition = exact.logsumexp(-1)
    chosen = exact.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    total = ((log_partition - chosen + z_loss * log_partition.square()) * mask).sum()
    if not wants_grad:
        return total, None
    scale = mask * (1 + 2 * z_loss * log_partition)
    probabilities = (exact - log_partition.unsqueeze(-1)).exp()
    hit = torch.arange(logits.shape[-1], device=logits.device) == targets.unsqueeze(-1)
    grad = probabilities * scale.unsqueeze(-1) - torch.where(hit, mask.unsqueeze(-1), 0.0)
    return total, grad.to(logits.dtype)


def token_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each target, in the shape of ``targets``, float32.

    Differentiable for any function of the result (DPO, PPO): each chunk's logits are made again in the backward
    instead of being kept.
    """
    return _in_chunks(hidden, weight, targets, temperature, with_entropy=False)[0]


def token_log_probs_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As ``token_log_probs``, and the entropy (nats) of the distribution each target was taken from."""
    log_probs, entropy = _in_chunks(hidden, weight, targets, temperature, with_entropy=True)
    return log_probs, entropy


def _in_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    weight, vocabulary = _own_slice(weight)
    flat, chosen = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    size = chunk_tokens(weight.shape[0], weight.device)
    pieces: list[tuple[Tensor, Tensor]] = []
    for start in range(0, flat.shape[0], size):
        part = slice(start, start + size)
        arguments = (flat[part], weight, chosen[part], temperature, with_entropy, vocabulary)
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_chunk, *arguments, use_reentrant=False))
        else:
            pieces.append(_chunk(*arguments))
    log_probs, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
    return log_probs.view(targets.shape), entropy.view(targets.shape) if with_entropy else entropy


def _chunk(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    with_entropy: bool,
    vocabulary: _Slice | None,
) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden if vocabulary is None else vocabulary.known(hidden), weight).float()
    if temperature != 1.0:
        logits = logits / temperature
    chosen, log_partition = _chosen_and_partition(logits, targets, vocabulary)
    if not with_entropy:
        return chosen - log_partition, chosen.new_empty(0)
    known = log_partition if vocabulary is None else vocabulary.known(log_partition)
    probabilities = (logits - known.unsqueeze(-1)).exp()
    expected = (probabilities * logits).sum(-1)
    return chosen - log_partition, log_partition - (expected if vocabulary is None else vocabulary.summed(expected))


def _chosen_and_partition(logits: Tensor, targets: Tensor, vocabulary: _Slice | None) -> tuple[Tensor, Tensor]:
    """The targets' logits, and the logarithm of the sum of all exponentials."""
    if vocabulary is None:
        return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1), logits.logsumexp(-1)
    targets = targets - vocabulary.first
    here = (targets >= 0) & (targets < vocabulary.rows)
    own = logits.gather(-1, targets.clamp(0, vocabulary.rows - 1).unsqueeze(-1)).squeeze(-1)
    highest = vocabulary.sum(logits.detach().amax(-1), dist.ReduceOp.MAX)
    partition = (logits - highest.unsqueeze(-1)).exp().sum(-1)
    chosen, partition = vocabulary.summed(torch.stack([own * here, partition]))
    return chosen, highest + partition.log()
