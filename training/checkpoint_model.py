"""The model inside a checkpoint, as a Hugging Face folder: to look at a run before it is over, or between its steps.

Up to ZeRO stage 2 every checkpoint holds the forward pass's weights in full. At stage 3 each rank's file holds its
piece of every fp32 master weight, in the order of the parameters; put together and rounded to the training's precision
they are what ``pretrain`` would have published at that step, byte for byte.

The torch engine's files hold the fp32 master weights whatever the stage, and are rounded likewise.

Files are mapped and weights read one at a time, so that a model larger than the memory can be written; a file is opened for each
of its weights, since what is mapped counts as memory until it is closed.

Nothing is unpickled but tensors and plain values, so a checkpoint from elsewhere can do no harm.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.errors import HeadwaterError, InputError
from infra.job import load_request
from training.checkpoint import MANIFEST, verify
from training.checkpoint_list import list_checkpoints
from training.hub_format import write_model
from training.model import Decoder, ModelConfig
from training.universal import ENGINE
from training.weights import Weights


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
    write_model(checkpoint_weights(checkpoint), folder, tokenizer)


def checkpoint_weights(checkpoint: Path) -> Weights:
    """The weights of a checkpoint's model in the precision of the forward pass, to be read one at a time."""
    try:
        manifest = verify(checkpoint)
    except HeadwaterError as error:
        raise InputError(str(error), where=str(checkpoint), remedy="Take another checkpoint.") from error
    described = manifest.get("model")
    if not described:
        raise InputError("this checkpoint does not say what model it holds", where=str(checkpoint))
    prefix, dtype = "model." + described["prefix"], getattr(torch, described["dtype"])
    config = ModelConfig.model_validate(described["config"])
    if manifest.get("engine") == "torch":
        with torch.device("meta"):
            shapes = {name: weight.shape for name, weight in Decoder(config).state_dict().items()}
        stored: Callable[[str], Tensor] = functools.partial(
            _distributed, checkpoint, {prefix + name: shape for name, shape in shapes.items()}
        )
    elif manifest["zero_stage"] == 3:
        stored = functools.partial(_sharded, *_pieces(checkpoint, manifest["ranks"]))
    else:
        stored = functools.partial(_whole, checkpoint)
    return Weights(config, dtype, lambda name: stored(prefix + name).to(dtype))


def _distributed(checkpoint: Path, shapes: Mapping[str, torch.Size], name: str) -> Tensor:
    from training.distributed_checkpoint import read_whole  # and torch's part of it, which only this engine needs

    return read_whole(checkpoint / ENGINE, {f"weight/{name}": torch.empty(shapes[name])})[f"weight/{name}"]


def _whole(checkpoint: Path, name: str) -> Tensor:
    weight: Tensor = _load(checkpoint / ENGINE / "mp_rank_00_model_states.pt")["module"][name]
    return weight


def _pieces(checkpoint: Path, ranks: int) -> tuple[list[Path], dict[str, tuple[int, int, torch.Size]]]:
    """The ranks' files, and of every weight where its piece begins in each of them, how long it is, and the weight's shape."""
    folder = checkpoint / ENGINE
    files = [next(folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")) for rank in range(ranks)]
    pieces, start = {}, 0
    for group in _load(folder / "zero_pp_rank_0_mp_rank_00_model_states.pt")["param_shapes"]:
        for name, shape in group.items():
            length = -(-shape.numel() // ranks)  # the last rank's is filled up
            pieces[name] = start, length, shape
            start += length
    return files, pieces


def _sharded(files: Sequence[Path], pieces: Mapping[str, tuple[int, int, torch.Size]], name: str) -> Tensor:
    start, length, shape = pieces[name]
    parts = []
    for file in files:
        first = 0
        for flat in _load(file)["optimizer_state_dict"]["fp32_flat_groups"]:
            inside = flat[max(0, start - first) : max(0, start + length - first)]
            parts.append(inside)
            first += len(flat)
    return torch.cat(parts)[: shape.numel()].view(shape)


def _load(path: Path) -> dict[str, Any]:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found nothing else
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    # DeepSpeed's files hold these three, which carry numbers and do nothing when they are made.
    with torch.serialization.safe_globals([fragment_address, LossScaler, ZeroStageEnum]):
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return content
