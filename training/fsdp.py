"""The torch engine: FSDP2 under the same optimizer and the same step as DeepSpeed's ZeRO.

Every block is one unit of sharding, what lies outside the blocks another (on CPUs at stage 1 all is one). A rank keeps
fp32 rows of every weight; the optimizer works on these rows as plain tensors (``pieces``), of which Muon knows which stretch
of which matrix they are.

    stage 1    gradients are summed in full over the micro batches and reduced once; weights stay whole between steps
    stage 2    gradients are reduced to the ranks' rows after every micro batch
    stage 3    weights are whole only while their block needs them

A model is cut up on the meta device, and then each weight read, of which a rank keeps its rows (``training.deferred``).

With ``tensor``, ``training.tensor_parallel`` cuts the matrices first, and what is said here of weights holds for a rank's
part of them: a rank keeps a rectangle of every matrix.

While weights stay whole (stages 1 and 2), only the step is collective: generation and validation may differ in length
from rank to rank.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.distributed.tensor import DTensor, Replicate

from training.deferred import FirstValue, first_value, on_meta, replace_parameters
from training.model import Block
from training.muon import Layout, Piece, cut
from training.optimizer import OptimizerConfig, SkippingOptimizer, create_optimizer, parameter_groups
from training.parallel import Mesh, ParallelConfig
from training.tensor_parallel import share_matrices

MOMENTS = ("exp_avg", "exp_avg_sq")


class Fsdp:
    """A sharded module with its optimizer, called like DeepSpeed's engine."""

    def __init__(
        self, module: nn.Module, config: OptimizerConfig, parallel: ParallelConfig, mesh: Mesh, device: torch.device
    ) -> None:
        self.module, self.mesh, self.stage = module, mesh, parallel.zero_stage
        names = {parameter: name for name, parameter in module.named_parameters()}
        groups = parameter_groups(module, config)  # sharding makes new parameters, without marks of their own
        learning = [[names.pop(parameter) for parameter in group["params"]] for group in groups]
        ranks = _device_mesh(mesh, device)
        read = _taken(module)
        if mesh.tensor > 1:
            share_matrices(module, ranks["tensor"])
        self._units = _shard(module, ranks[("replicate", "shard") if mesh.replicate > 1 else ("shard",)], parallel)
        _fill(module, read, device)
        self.weights: dict[str, Any] = dict(module.named_parameters())
        """This rank's rows of every parameter (DTensors)."""
        self.pieces: dict[str, nn.Parameter] = {}
        """The same memory of those that learn, as the optimizer knows it."""
        self.shared: dict[str, Any] = {}
        """Those that lie in two stages of a pipeline, and the group that adds up their gradients."""
        module(_nothing)  # FSDP finds its root and streams in a first forward pass, and pads the rows in other memory
        _hand_out_what_is_there(self._units)
        for group, chosen in zip(groups, learning, strict=True):
            self.pieces |= {name: nn.Parameter(_local(self.weights[name])) for name in chosen}
            group["params"] = [self.pieces[name] for name in chosen]
        self.optimizer: SkippingOptimizer = create_optimizer(groups, config)
        self.optimizer.layouts = self._layouts(groups, ranks)
        self.refresh()

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)

    def eval(self) -> None:
        self.module.eval()

    def set_gradient_accumulation_boundary(self, last: bool) -> None:
        root = self._units[-1]
        root.set_is_last_backward(last)
        if self.stage == 1:
            root.set_requires_gradient_sync(last)
        else:
            root.set_requires_all_reduce(last)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @torch.no_grad()
    def clip(self, largest: float) -> float:
        """Hand the gradients to the optimizer, no longer than ``largest`` (0: as they are). Their norm before that."""
        by_copies: dict[int, list[Tensor]] = {}
        for name, piece in self.pieces.items():
            weight = self.weights[name]
            piece.grad = gradient = torch.zeros_like(piece) if weight.grad is None else _local(weight.grad)
            if name in self.shared:
                dist.all_reduce(gradient, group=self.shared[name])
            by_copies.setdefault(self._copies(weight) * (1 + (name in self.shared)), []).append(gradient)
        square = torch.zeros((), dtype=torch.float64, device=piece.device)
        for copies, gradients in by_copies.items():
            square += nn.utils.get_total_norm(gradients).double().square() / copies
        dist.all_reduce(square)
        norm = math.sqrt(float(square))
        if largest > 0 and norm > largest:
            torch._foreach_mul_(
                [gradient for gradients in by_copies.values() for gradient in gradients], largest / (norm + 1e-6)
            )
        return norm

    def step(self) -> None:
        """Update, or let the optimizer decline to; forget the gradients."""
        self.optimizer.step()
        for name, piece in self.pieces.items():
            piece.grad = self.weights[name].grad = None
        self.refresh()

    def refresh(self) -> None:
        """Let the forward pass see what is in the rows now. Collective."""
        for unit in self._units:
            unit.reshard()
            if self.stage < 3:
                unit.unshard()

    def weight(self, name: str, precision: torch.dtype) -> Tensor:
        """A weight in full, rounded, on every rank. Collective among those that have parts of it."""
        rows = self.weights[name]
        whole = torch.zeros(rows.shape, dtype=precision, device=_local(rows).device)
        rows_of(rows, whole).copy_(_local(rows))
        for axis, placement in enumerate(rows.placements):
            if not placement.is_replicate():
                # All ranks but one have zeros: a sum of bytes keeps every number as it is, zeros below zero, too.
                dist.all_reduce(whole.view(torch.uint8), group=rows.device_mesh.get_group(axis))
        return whole

    @torch.no_grad()
    def put(self, read: Callable[[str], Tensor]) -> None:
        """Replace the rows by those of whole weights, read by name. Collective."""
        for name, weight in self.weights.items():
            _local(weight).copy_(rows_of(weight, read(name)))
        self.refresh()

    def shards(self) -> dict[str, Any]:
        """Weights and moments as DTensors on this rank's own memory: ``weight/NAME``, ``exp_avg/NAME``, …"""
        found = {f"weight/{name}": weight.detach() for name, weight in self.weights.items()}
        for name, piece in self.pieces.items():
            state = self.optimizer.state[piece]
            if not state:  # before the first step
                state["step"] = torch.zeros((), device=piece.device)
                state |= {moment: torch.zeros_like(piece) for moment in MOMENTS}
            for moment in MOMENTS:
                found[f"{moment}/{name}"] = like(self.weights[name], state[moment])
        return found

    def restored(self, applied: int) -> None:
        """Go on behind so many updates with what was written into ``shards``. Collective."""
        for piece in self.pieces.values():
            self.optimizer.state[piece]["step"].fill_(applied)
        self.refresh()

    def _copies(self, weight: Any) -> int:
        """On how many ranks the same rows lie."""
        return self.mesh.replicate * (1 if _tensor_placement(weight).is_shard() else self.mesh.tensor)

    def _layouts(self, groups: list[dict[str, Any]], ranks: DeviceMesh) -> dict[int, Layout]:
        among = (ranks["shard", "tensor"]._flatten() if self.mesh.tensor > 1 else ranks["shard"]).get_group()
        marked = {id(piece) for group in groups if group["muon"] for piece in group["params"]}
        names = [name for name, piece in self.pieces.items() if id(piece) in marked]
        places = [_place(self.weights[name]) for name in names]
        return {
            id(self.pieces[name]): Layout([place], [is_cut], among)
            for name, place, is_cut in zip(names, places, cut(places, among), strict=True)
        }


def like(weight: Any, rows: Tensor) -> Any:
    """Rows cut as the weight's are, which may lie in other memory than the mesh's devices."""
    return DTensor(rows, weight._spec, requires_grad=False)


def _nothing(model: nn.Module) -> None:
    return None


def _local(rows: Any) -> Tensor:
    local: Tensor = rows.detach().to_local()
    return local


def _taken(module: nn.Module) -> dict[str, FirstValue]:
    """Take a module's first values from it, by name; what is left has shapes, in the master weights' precision."""
    read = {name: first_value(parameter) for name, parameter in module.named_parameters()}
    replace_parameters(module, lambda _, parameter: on_meta(parameter, torch.float32))
    return read


@torch.no_grad()
def _fill(module: nn.Module, read: dict[str, FirstValue], device: torch.device) -> None:
    """Give a module that was cut up on the meta device its memory: of each weight this rank's rows."""

    def filled(name: str, weight: Any) -> nn.Parameter:
        rows = torch.empty(weight.to_local().shape, dtype=weight.dtype, device=device)
        rows.copy_(rows_of(weight, read.pop(name)()))
        return nn.Parameter(like(weight, rows), weight.requires_grad)

    replace_parameters(module, filled)


def _device_mesh(mesh: Mesh, device: torch.device) -> DeviceMesh:
    sizes = mesh.axes
    sizes["shard"] *= sizes.pop("context")  # ranks that share rows have gradients of different tokens all the same
    sizes = {"pipeline": sizes.pop("pipeline")} | sizes
    kept = {axis: size for axis, size in sizes.items() if size > 1 or axis == "shard"}
    return init_device_mesh(device.type, tuple(kept.values()), mesh_dim_names=tuple(kept))


def _shard(module: nn.Module, mesh: DeviceMesh, parallel: ParallelConfig) -> list[FSDPModule]:
    """Cut up a module in place: its blocks, then the rest, of each stage apart. The units of sharding, the root last."""
    half = torch.bfloat16 if parallel.dtype == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    units = []
    # Gradients that are reduced once a step, and not beside computing, are reduced fastest all together.
    together = parallel.zero_stage == 1 and mesh.device_type == "cpu"
    roots = list(getattr(module, "parts", [module]))
    for part in [part for part in module.modules() if isinstance(part, Block) and not together] + roots:
        again = parallel.zero_stage == 3 and isinstance(part, Block)
        units.append(fully_shard(part, mesh=mesh, reshard_after_forward=again, mp_policy=policy))
        if mesh.device_type == "cpu":
            units[-1].set_custom_reduce_scatter(_ExchangedSums())
    for root in units[-len(roots) :]:
        root.set_reshard_after_backward(parallel.zero_stage == 3)
    return units


class _ExchangedSums(ReduceScatter):
    """A reduce-scatter of one exchange and a sum in rank order. Gloo's own reduces all rows on every rank, in eight times
    the processor time (4M values, two ranks, torch 2.13)."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        if op not in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            raise ValueError(f"gradients are summed or averaged, not reduced by {op}")
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        torch.sum(received.view(group.size(), -1), 0, out=output_tensor)
        if op == dist.ReduceOp.AVG:
            output_tensor /= group.size()


def _hand_out_what_is_there(units: list[FSDPModule]) -> None:
    """Asked for the state, a module would cut itself up first; from here on it gives what it has, whole or not."""
    for unit in units:
        for group in fully_shard.state(unit)._fsdp_param_groups:  # type: ignore[attr-defined]
            for hooks in (
                group._module_to_pre_save_state_dict_hook_handle,
                group._module_to_pre_load_state_dict_hook_handle,
            ):
                for hook in hooks.values():
                    hook.remove()


def rows_of(weight: Any, whole: Tensor) -> Tensor:
    """Of a whole tensor what this rank has of the weight."""
    first = _corner(weight)
    for dimension, (start, length) in enumerate(zip(first, _local(weight).shape, strict=True)):
        whole = whole.narrow(dimension, start, length)
    return whole


def _corner(weight: Any) -> list[int]:
    """Where in the whole weight this rank's part begins. A tensor group cuts first and evenly; then every rank of a shard
    group has as many rows as the one before, fewer or none at the end."""
    mesh: DeviceMesh = weight.device_mesh
    corner, rows = [0] * weight.ndim, len(weight)
    placement = _tensor_placement(weight)
    if placement.is_shard():
        part = weight.shape[placement.dim] // mesh["tensor"].size()
        corner[placement.dim] = part * mesh.get_local_rank("tensor")
        rows = part if placement.dim == 0 else rows
    each = -(-rows // mesh["shard"].size())
    corner[0] += min(each * mesh.get_local_rank("shard"), rows)
    return corner


def _tensor_placement(weight: Any) -> Any:
    names = weight.device_mesh.mesh_dim_names
    return weight.placements[names.index("tensor")] if "tensor" in names else Replicate()


def _place(weight: Any) -> Piece:
    (rows, columns), (row, column) = weight.shape, _corner(weight)
    local = _local(weight)
    width = local.shape[1]
    return Piece((rows, columns), row * columns + column, 0, local.numel(), 0 if width == columns else width)
