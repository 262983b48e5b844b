"""Loading DeepSpeed's files into an engine, also one of another number of ranks or ZeRO stage.

Where ranks or stage differ, rank 0 makes a copy in DeepSpeed's universal format, which is gone afterwards. Stages 1, 2 and
3 can follow one another; what DeepSpeed loses or confuses between them is put right here.
"""

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from infra.errors import HeadwaterError
from training.engine import Engine

ENGINE = "engine"
"""The folder of DeepSpeed's files within a checkpoint."""


def load_engine(engine: Engine, folder: Path) -> None:
    """Load ``folder/engine``. Raises HeadwaterError where DeepSpeed cannot."""
    loaded, _ = engine.runtime.load_checkpoint(str(folder), tag=ENGINE)
    if loaded is None:
        raise HeadwaterError("DeepSpeed could not load the checkpoint", where=str(folder))


def load_elsewhere(engine: Engine, path: Path, applied: int) -> None:
    """Load a checkpoint of other ranks or another ZeRO stage, after so many ``applied`` updates. Collective."""
    optimizer = engine.torch_optimizer
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    settings = engine.runtime._config
    settings.load_universal_checkpoint = True
    try:
        with universal(engine, path) as folder:
            load_engine(engine, folder)
    finally:
        # Left on, a later ZeRO-3 save loses the weights.
        settings.load_universal_checkpoint = False
    # ZeRO-3 gives every group the first one's weight decay, and all states one shared step counter or none.
    for group, kept in zip(optimizer.param_groups, groups, strict=True):
        group.update(kept)
    for state in optimizer.state.values():
        state["step"] = torch.tensor(float(applied), device=state["exp_avg"].device)


@contextlib.contextmanager
def universal(engine: Engine, path: Path) -> Iterator[Path]:
    """A universal copy of the checkpoint, made by rank 0 and gone afterwards."""
    folder = path.with_name(path.name + ".universal.tmp")
    outcome: list[str | None] = [None]
    if engine.ranks.first:
        outcome = [_convert(path, folder)]
    dist.broadcast_object_list(outcome)
    if outcome[0]:
        raise HeadwaterError(
            f"the checkpoint could not be converted for {engine.ranks.world_size} ranks: {outcome[0]}",
            where=str(path),
            remedy="Continue with the number of ranks and the ZeRO stage it was saved with.",
        )
    try:
        yield folder
        dist.barrier()
    finally:
        if engine.ranks.first:
            shutil.rmtree(folder, ignore_errors=True)


def _convert(path: Path, folder: Path) -> str | None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    converter = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    places = ["--input_folder", str(path / ENGINE), "--output_folder", str(folder / ENGINE)]
    # Without --inject_missing_state the conversion of stages 1 and 2 fails.
    settings = ["--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state"]
    # The converter is one process; what the launcher set for this rank must not make it join the group.
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(converter + places + settings, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    try:
        _make_stage_neutral(folder / ENGINE)
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _make_stage_neutral(folder: Path) -> None:
    """The converter's output differs by the stage it came from. Give every stage the files it looks for."""
    plain, partitioned = folder / "mp_rank_00_model_states.pt", folder / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    # What is unpickled here was written by this job and verified by its digest before the conversion.
    if plain.exists():
        shutil.copyfile(plain, partitioned)
    else:
        shutil.copyfile(partitioned, plain)
        # From stage 3 come flat tensors; stages 1 and 2 want the parameter's shape. All read this form.
        for shapes in torch.load(partitioned, weights_only=False)["param_shapes"]:
            for name, shape in shapes.items():
                for file in (folder / "zero" / name).glob("*.pt"):
                    torch.save({"param": torch.load(file, weights_only=True).view(shape), "cat_dim": 0}, file)
    path = folder / "zero" / "optimizer_state.pt"
    description = torch.load(path, weights_only=False)
    groups = description["param_groups"]
    description.setdefault("ds_version", importlib.metadata.version("deepspeed"))
    # Replaced after loading: see load_elsewhere.
    description["optimizer_state_dict"] = {"state": {0: {"step": torch.tensor(0.0)}}, "param_groups": groups}
    torch.save(description, path)
