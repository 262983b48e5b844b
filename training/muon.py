"""Muon for weights that ZeRO or FSDP has cut into pieces.

Muon replaces a matrix's momentum by the nearest orthogonal matrix (Newton-Schulz iteration) before it is applied. It
needs whole matrices; DeepSpeed hands the optimizer flat vectors, of which a rank holds a part. A ``Layout`` says which
stretch of which matrix lies where. Matrices that lie on one rank entirely are orthogonalised there and nowhere else;
those cut by a partition's border are completed over the ranks first.

The momentum itself stays flat, like Adam's moments, and bears Adam's name (``exp_avg``) beside a second moment that
stays zero: so DeepSpeed's universal checkpoints carry it to any number of ranks.

Gradients arrive here clipped by their own norm. (DeepSpeed's Muon orthogonalises first and clips the result, which
shrinks every update of the model to nothing.) Updates are scaled to the size of AdamW's, so one learning rate serves
both.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 1 << 26
"""Elements of cut matrices exchanged at a time."""
COEFFICIENTS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Polar Express: for each of five iterations the quintic that leaves the worst singular value nearest to 1."""
MARGIN = 1.02
"""Keeps the largest singular value inside what the quintics were made for, rounding included."""


@dataclass(frozen=True)
class Piece:
    """``length`` values of a matrix from ``start`` (flattened), at ``place`` in a flat parameter. May be empty."""

    shape: tuple[int, int]
    start: int
    place: int
    length: int
    width: int = 0
    """Values of each row, where it is a rectangle that leaves out columns; 0: values one behind the other."""

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def of_flat(self, flat: Tensor) -> Tensor:
        """The piece's own memory in a flat parameter, in the shape of ``of_whole``."""
        return flat[self.place : self.place + self.length].view(-1, self.width or self.length)

    def of_whole(self, matrix: Tensor) -> Tensor:
        """The values that the piece stands for in a flattened matrix: a view."""
        width = self.width or self.length
        return matrix.as_strided(
            (self.length // width, width), (self.shape[1], 1), matrix.storage_offset() + self.start
        )


@dataclass(frozen=True)
class Layout:
    """One flat parameter of the optimizer: its matrices in an order common to all ranks."""

    pieces: list[Piece]
    cut: list[bool]
    """Whether a matrix lies on more than one rank."""
    group: Any = None
    """The ranks that hold the pieces of one matrix between them; none: all."""


def orthogonalise(matrix: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """The orthogonal factor of a matrix, its singular values within a few tenths of 1, by products in ``precision``."""
    work = matrix.to(precision)
    tall = work.shape[0] > work.shape[1]
    work = work.T if tall else work
    work = work / (work.norm() * MARGIN + 1e-7)
    for a, b, c in COEFFICIENTS:
        square = work @ work.T
        work = torch.addmm(work, torch.addmm(square, square, square, beta=b, alpha=c), work, beta=a)
    orthogonal: Tensor = (work.T if tall else work).to(matrix.dtype)
    return orthogonal


def adam_sized(shape: tuple[int, int]) -> float:
    """The factor that gives an orthogonal matrix the root mean square of a typical AdamW update."""
    return 0.2 * math.sqrt(max(shape))


@torch.no_grad()
def muon_update(
    flat: Tensor,
    layout: Layout,
    state: dict[str, Any],
    *,
    lr: float,
    beta: float,
    decay: float,
    precision: torch.dtype = torch.float32,
) -> None:
    """One step for a flat parameter, in place. Collective where the layout has cut matrices."""
    gradient = flat.grad
    assert gradient is not None
    if not state:
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(flat)
        state["exp_avg_sq"] = torch.zeros_like(flat)
    state["step"] += 1
    momentum = state["exp_avg"]
    momentum.lerp_(gradient.to(momentum.dtype), 1 - beta)
    towards = gradient.to(momentum.dtype).lerp(momentum, beta).view(-1)
    target = flat.view(-1)
    target.mul_(1 - lr * decay)
    for piece, matrix in _whole_matrices(towards, layout):
        whole = orthogonalise(matrix.view(piece.shape), precision).reshape(-1)
        piece.of_flat(target).add_(piece.of_whole(whole), alpha=-lr * adam_sized(piece.shape))


def _whole_matrices(flat: Tensor, layout: Layout) -> Iterator[tuple[Piece, Tensor]]:
    """The matrices this rank holds a piece of, in full."""
    for piece, cut in zip(layout.pieces, layout.cut, strict=True):
        if not cut and piece.length:
            yield piece, flat[piece.place : piece.place + piece.length]
    for bucket in _buckets([piece for piece, cut in zip(layout.pieces, layout.cut, strict=True) if cut]):
        together = flat.new_zeros(sum(piece.size for piece in bucket))
        offset = 0
        for piece in bucket:
            if piece.length:
                piece.of_whole(together[offset : offset + piece.size]).copy_(piece.of_flat(flat))
            offset += piece.size
        dist.all_reduce(together, group=layout.group)
        offset = 0
        for piece in bucket:
            if piece.length:
                yield piece, together[offset : offset + piece.size]
            offset += piece.size


def _buckets(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    bucket: list[Piece] = []
    size = 0
    for piece in pieces:
        if bucket and size + piece.size > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(piece)
        size += piece.size
    if bucket:
        yield bucket


# Where DeepSpeed put the matrices ---------------------------------------------------------------------------------------


def layouts_of(deepspeed_engine: Any, stage: int, muon: set[nn.Parameter]) -> dict[int, Layout]:
    """By ``id`` of each flat parameter of the optimizer that consists of Muon's matrices. Collective."""
    found: dict[int, list[Piece]] = {}
    if stage == 0:
        found = {id(parameter): [_entire(parameter)] for parameter in _in_order(deepspeed_engine, muon)}
    else:
        zero = deepspeed_engine.optimizer
        names = ("fp16_groups",) if stage == 3 else ("bf16_groups", "bit16_groups")
        groups = next(getattr(zero, name) for name in names if hasattr(zero, name))
        for group, flat in zip(groups, flat_parameters(zero, stage), strict=True):
            if group[0] in muon:
                found[id(flat)] = list(_partitioned(group)) if stage == 3 else [_fragment(one) for one in group]
    return {key: Layout(pieces, cut(pieces)) for key, pieces in found.items()}


def flat_parameters(zero: Any, stage: int) -> list[Tensor]:
    """The fp32 vectors that DeepSpeed's optimizer of ZeRO stage 1, 2 or 3 hands to the torch optimizer."""
    if stage == 3:
        flats: list[Tensor] = zero.fp32_partitioned_groups_flat
    elif hasattr(zero, "fp32_groups_flat_partition"):  # its optimizer for bf16
        flats = zero.fp32_groups_flat_partition
    else:
        flats = zero.single_partition_of_fp32_groups
    return flats


def _in_order(deepspeed_engine: Any, muon: set[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in deepspeed_engine.module.parameters() if parameter in muon]


def _entire(parameter: nn.Parameter) -> Piece:
    rows, columns = parameter.shape
    return Piece((rows, columns), 0, 0, rows * columns)


def _fragment(parameter: nn.Parameter) -> Piece:
    """ZeRO-1 and 2: a group is one long vector, cut into equal partitions wherever the borders fall."""
    rows, columns = parameter.shape
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:  # no part of it on this rank
        return Piece((rows, columns), 0, 0, 0)
    inside, flat = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
    return Piece((rows, columns), inside.start, flat.start, flat.numel)


def _partitioned(group: Sequence[Any]) -> Iterator[Piece]:
    """ZeRO-3: every parameter is cut into equal parts, one a rank, the last one padded."""
    rank, world_size, place = dist.get_rank(), dist.get_world_size(), 0
    for parameter in group:
        rows, columns = parameter.ds_shape
        part = -(-rows * columns // world_size)
        start = min(rank * part, rows * columns)
        yield Piece((rows, columns), start, place, min(part, rows * columns - start))
        place += part


def cut(pieces: Sequence[Piece], group: Any = None) -> list[bool]:
    """A matrix is cut unless some rank of the group holds all of it. All of them get the same answer."""
    whole = torch.tensor([float(piece.length == piece.size) for piece in pieces])
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, whole, group)
    return [not any(bool(held[index]) for held in everyone) for index in range(len(pieces))]
