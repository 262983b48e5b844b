"""Weights and moments of the torch engine on disk, in the format of ``torch.distributed.checkpoint``.

    .metadata         which stretch of which tensor lies in which file
    __0_0.distcp …    a file a rank

Tensors are named ``weight/NAME`` and ``exp_avg/NAME``, ``exp_avg_sq/NAME`` for those that learn. Any mesh reads what
another one wrote. DeepSpeed's checkpoints come in by its universal format, and a DeepSpeed engine of ZeRO stage 1 to 3 takes what
is here tensor by tensor.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from infra.errors import HeadwaterError
from training.engine import Engine
from training.fsdp import MOMENTS, like, rows_of
from training.muon import flat_parameters


def host_copy(engine: Engine) -> dict[str, Any]:
    """This rank's shards as they are now, in host memory."""
    return {name: like(shard, shard.to_local().to("cpu", copy=True)) for name, shard in engine.runtime.shards().items()}


def write_shards(folder: Path, shards: dict[str, Any], rank: int, group: Any) -> list[Path]:
    """Write a rank's shards into a folder that exists. Collective over ``group``; an OSError on any rank is one on all."""
    try:
        save(shards, checkpoint_id=folder, process_group=group)
    except CheckpointException as error:
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(f"{_first_of(error)} ({free:,.1f} MB are free on its disk)") from error
    return [*folder.glob(f"__{rank}_*.distcp"), *([folder / ".metadata"] if rank == 0 else [])]


def load_shards(engine: Engine, folder: Path, applied: int) -> None:
    """Load shards that any mesh wrote, behind so many updates. Collective."""
    _load(engine.runtime.shards(), folder)
    engine.runtime.restored(applied)


def load_universal(engine: Engine, folder: Path, applied: int) -> None:
    """Load the shards from DeepSpeed's universal files: a folder a parameter. Collective."""
    for name, shard in engine.runtime.shards().items():
        kind, _, parameter = name.partition("/")
        file = folder / "zero" / parameter / f"{'fp32' if kind == 'weight' else kind}.pt"
        if not file.is_file():
            raise _other_model(folder, f"it has no {parameter}")
        stored = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        whole = (stored["param"] if isinstance(stored, dict) else stored).view(shard.shape)
        shard.to_local().copy_(rows_of(shard, whole))
    engine.runtime.restored(applied)


def load_into_deepspeed(engine: Engine, folder: Path, applied: int) -> None:
    """Give a DeepSpeed engine what a torch engine wrote. Collective; a whole tensor at a time."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    zero, state = engine.runtime.optimizer, engine.torch_optimizer.state
    for flat in flat_parameters(zero, engine.parallel.zero_stage):
        if "exp_avg" not in state[flat]:  # before the first step
            state[flat] |= {moment: torch.zeros_like(flat) for moment in MOMENTS}
    if engine.parallel.zero_stage < 3:
        zero._lazy_init_hp_params_optimizer_state()
    shapes = engine.shapes()

    def read(name: str, kind: str = "weight") -> Tensor:
        key = f"{kind}/model.{name}"
        return read_whole(folder, {key: torch.empty(shapes[name])})[key].to(engine.ranks.device)

    for name, parameter in engine.model.named_parameters():
        if parameter.requires_grad:
            safe_set_full_fp32_param(parameter, read(name))
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, read(name, moment), moment)
    engine.put_weights(read)
    for moments in state.values():
        moments["step"] = torch.tensor(float(applied), device=moments["exp_avg"].device)


def read_whole(folder: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill whole tensors by name, in one process."""
    _load(tensors, folder, no_dist=True)
    return tensors


def _load(tensors: Mapping[str, Any], folder: Path, **how: bool) -> None:
    try:
        load(dict(tensors), checkpoint_id=folder, **how)
    except (CheckpointException, RuntimeError, ValueError) as error:
        raise _other_model(folder, _first_of(error)) from error


def _other_model(folder: Path, reason: str) -> HeadwaterError:
    return HeadwaterError(f"the checkpoint is not one of this model: {reason}", where=str(folder))


def _first_of(error: BaseException) -> str:
    """The first rank's complaint in a line."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
