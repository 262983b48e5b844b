"""The model inside a checkpoint, as a Hugging Face folder: to look at a run before it is over, or between its steps.

Up to ZeRO stage 2 every checkpoint holds the forward pass's weights in full. At stage 3 each rank's file holds its
piece of every fp32 master weight, in the order of the parameters; put together and rounded to the training's precision
they are what ``pretrain`` would have published at that step, byte for byte.

The torch engine's files hold the fp32 master weights whatever the stage, and are rounded likewise.

Nothing is unpickled but tensors and plain values, so a checkpoint from elsewhere can do no harm.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.errors import HeadwaterError, InputError
from infra.job import load_request
from training.checkpoint import MANIFEST, list_checkpoints, verify
from training.hub_format import save_model
from training.model import Decoder, ModelConfig
from training.universal import ENGINE


def is_checkpoint(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and (folder / ENGINE).is_dir()


def checkpoint_of_step(work: Path, step: int) -> Path:
    """The checkpoint that a job's work folder holds of a step."""
    there = dict(list_checkpoints(work / "checkpoints"))
    if step not in there:
        steps = ", ".join(map(str, there)) or "none"
        raise InputError(
            f"there is no checkpoint of step {step}",
            where=str(work / "checkpoints"),
            remedy=f"Checkpoints that are still there: {steps}. The setting keep_every keeps more of them.",
        )
    return there[step]


def save_checkpoint_model(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint's model and its tokenizer as a model folder."""
    request = checkpoint.parent.parent / "request.json"
    if not request.is_file():
        raise InputError(
            "a checkpoint's tokenizer is found by the request two folders above it, and there is none",
            where=str(checkpoint),
            remedy="Give the checkpoint where its job left it.",
        )
    tokenizer = load_request(request).inputs["tokenizer"].local("data")
    save_model(load_checkpoint_model(checkpoint), folder, tokenizer)


def load_checkpoint_model(checkpoint: Path) -> Decoder:
    """A checkpoint's model, in the precision of the forward pass."""
    try:
        manifest = verify(checkpoint)
    except HeadwaterError as error:
        raise InputError(str(error), where=str(checkpoint), remedy="Take another checkpoint.") from error
    described = manifest.get("model")
    if not described:
        raise InputError("this checkpoint does not say what model it holds", where=str(checkpoint))
    with torch.device("meta"):
        decoder = Decoder(ModelConfig.model_validate(described["config"]))
    prefix, dtype = "model." + described["prefix"], getattr(torch, described["dtype"])
    if manifest.get("engine") == "torch":
        from training.distributed_checkpoint import read_whole  # and torch's part of it, which only this engine needs

        empty = {f"weight/{prefix}{name}": torch.empty(tensor.shape) for name, tensor in decoder.state_dict().items()}
        stored = {name.removeprefix("weight/"): whole for name, whole in read_whole(checkpoint / ENGINE, empty).items()}
    else:
        stored = _sharded(checkpoint, manifest["ranks"]) if manifest["zero_stage"] == 3 else _whole(checkpoint)
    state = {name: stored[prefix + name].to(dtype) for name in decoder.state_dict()}
    decoder.load_state_dict(state, assign=True)
    return decoder


def _whole(checkpoint: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = _load(checkpoint / ENGINE / "mp_rank_00_model_states.pt")["module"]
    return weights


def _sharded(checkpoint: Path, ranks: int) -> dict[str, Tensor]:
    folder = checkpoint / ENGINE
    shapes = _load(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")["param_shapes"]
    parts = []
    for rank in range(ranks):
        (path,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        parts.append(torch.cat(_load(path)["optimizer_state_dict"]["fp32_flat_groups"]))
    weights: dict[str, Tensor] = {}
    start = 0
    for group in shapes:
        for name, shape in group.items():
            piece = -(-shape.numel() // ranks)  # the last rank's is filled up
            whole = torch.cat([part[start : start + piece] for part in parts])
            weights[name] = whole[: shape.numel()].view(shape)
            start += piece
    return weights


def _load(path: Path) -> dict[str, Any]:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found nothing else
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    # DeepSpeed's files hold these three, which carry numbers and do nothing when they are made.
    with torch.serialization.safe_globals([fragment_address, LossScaler, ZeroStageEnum]):
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content
