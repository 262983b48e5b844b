"""Checkpoints that are whole or absent, and resume exactly.

    checkpoints/step-00000120.tmp/       being written; a leftover of a kill is swept away by the next save
    checkpoints/step-00000120/
        manifest.json                    step, engine, ranks, ZeRO stage, the model's shape, the caller's state, every file's
                                         size and digest
        engine/                          weights, master weights, moments: DeepSpeed's files, or those of
                                         torch.distributed.checkpoint (training.distributed_checkpoint)
        rank-0.pt …                      random generators and the caller's tensors, a file a rank

``save`` copies everything to host memory and returns; a thread writes, digests, waits for the other ranks' threads over
a group of its own, and rank 0 writes the manifest and renames. Training goes on meanwhile. A failure on any rank (a
full disk, say) costs that checkpoint and is reported as a warning; older ones stay until a newer one is whole.

``load_newest`` takes the newest checkpoint whose every file has the recorded digest; others are passed over with a
warning. With the engine, the ZeRO stage and the mesh it was saved with, the continuation is bit-exact. Otherwise it agrees
within rounding: the torch engine reads what any mesh wrote, DeepSpeed goes through its universal format, and each takes the
other's.
"""

import json
import os
import random
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from infra.config import Json
from infra.errors import HeadwaterError
from infra.store.files import fsync_folder, sha256_file, write_json
from training.checkpoint_list import list_checkpoints
from training.engine import Engine
from training.model import decoders_of
from training.parallel import Mesh
from training.universal import ENGINE, load_elsewhere, load_engine, universal

FORMAT = 1
MANIFEST = "manifest.json"
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint gave back beside the engine's own state."""

    step: int
    state: dict[str, Any]
    rank_state: dict[str, Any]
    """This rank's tensors; empty when the number of ranks changed."""
    exact: bool


@dataclass
class Checkpoints:
    """The checkpoints of one job: saves, rotates and finds them. Every method is called by all ranks."""

    engine: Engine
    folder: Path
    warn: Warn
    keep_last: int = 2
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of this; 0: only the last ones."""
    regular: int = 1
    """The newest checkpoint whose step is a multiple of this stays, too: a rollback goes to it, whatever came between."""
    _thread: threading.Thread | None = field(default=None, repr=False)
    _group: Any = field(default=None, repr=False)

    def save(self, state: dict[str, Json], rank_state: dict[str, Any] | None = None, *, wait: bool = False) -> None:
        """Start saving the engine as it is now. ``state`` must be equal on all ranks; ``rank_state`` is this rank's.

        Returns once everything is copied, or with ``wait`` once it is in its place (or given up) on all ranks. An
        earlier save still being written is waited for first.
        """
        self.wait()
        if self._group is None:
            # The writing threads talk among themselves while the main threads train.
            self._group = dist.new_group(backend="gloo")
        target = self.folder / f"step-{self.engine.step:08d}"
        pending = target.with_name(target.name + ".tmp")
        rank, sharded = self.engine.ranks.rank, self.engine.parallel.engine == "torch"
        shards = _distributed().host_copy(self.engine) if sharded else None
        files = {} if sharded else _snapshot(self.engine, pending)
        files[pending / f"rank-{rank}.pt"] = {"random": _random_state(), "caller": _to_host(rank_state or {})}
        description = {
            "format": FORMAT,
            "step": self.engine.step,
            "held_steps": self.engine.skipped_steps,
            "ranks": self.engine.ranks.world_size,
            "zero_stage": self.engine.parallel.zero_stage,
            "engine": self.engine.parallel.engine,
            "mesh": _layout(self.engine),
            "model": _describe_model(self.engine.model, self.engine.parallel.dtype),
            "state": state,
        }
        self._thread = threading.Thread(target=self._write, args=(pending, target, files, shards, description))
        self._thread.start()
        if wait:
            self.wait()
            dist.barrier()  # no rank may leave before rank 0 has put the checkpoint in its place

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def _write(
        self,
        pending: Path,
        target: Path,
        files: dict[Path, Any],
        shards: dict[str, Any] | None,
        description: dict[str, Any],
    ) -> None:
        first = self.engine.ranks.first
        error = _attempt(lambda: _prepare(self.folder, pending)) if first else None
        if failure := self._first_failure(error):
            self._give_up(pending, target, failure)
            return
        listed: dict[str, list[Json]] = {}
        error = _attempt(lambda: listed.update(_write_files(pending, files)))
        if shards is not None:
            failed = _attempt(lambda: listed.update(self._write_shards(pending, shards)))
            error = error or failed
        if failure := self._first_failure(error):
            self._give_up(pending, target, failure)
            return
        everything: list[dict[str, list[Json]] | None] = [None] * self.engine.ranks.world_size
        dist.all_gather_object(everything, listed, group=self._group)
        if first:
            merged = {path: entry for part in everything if part for path, entry in part.items()}
            error = _attempt(lambda: _complete(pending, target, description | {"files": merged}))
            if error:
                self._give_up(pending, target, error)
            else:
                _attempt(self._rotate)

    def _write_shards(self, pending: Path, shards: dict[str, Any]) -> dict[str, list[Json]]:
        written = _distributed().write_shards(pending / ENGINE, shards, self.engine.ranks.rank, self._group)
        return dict(_listed(pending, path) for path in written)

    def _first_failure(self, error: str | None) -> str | None:
        """What failed on the first rank where something did. Collective."""
        errors: list[str | None] = [None] * self.engine.ranks.world_size
        dist.all_gather_object(errors, error, group=self._group)
        return next((text for text in errors if text), None)

    def _give_up(self, pending: Path, target: Path, error: str) -> None:
        if self.engine.ranks.first:
            shutil.rmtree(pending, ignore_errors=True)
            self.warn(f"checkpoint {target.name} was not saved: {error}; training goes on with the one before")

    def _rotate(self) -> None:
        whole = list_checkpoints(self.folder)
        newest = max((step for step, _ in whole if step % self.regular == 0), default=0)
        for step, path in whole[: -self.keep_last] if self.keep_last else []:
            if step != newest and not (self.keep_every and step % self.keep_every == 0):
                # Renamed first: a kill in the middle of the deletion leaves nothing that looks like a checkpoint.
                doomed = path.with_name(path.name + ".tmp")
                path.rename(doomed)
                shutil.rmtree(doomed)

    def load_newest(self, preferred: Callable[[int], bool] = lambda step: True) -> Loaded | None:
        """Restore the engine from the newest checkpoint that verifies; None where there is none.

        One of a ``preferred`` step comes before all others.
        """
        choice: list[Any] = [None]
        if self.engine.ranks.first:
            choice = [self._newest_verified(preferred)]
        dist.broadcast_object_list(choice)
        if choice[0] is None:
            return None
        path, manifest = choice[0]
        return _restore(self.engine, path, manifest)

    def _newest_verified(self, preferred: Callable[[int], bool]) -> tuple[Path, dict[str, Any]] | None:
        for _, path in sorted(list_checkpoints(self.folder), key=lambda one: (preferred(one[0]), one), reverse=True):
            try:
                return path, verify(path)
            except HeadwaterError as error:
                self.warn(f"checkpoint {path.name} is passed over: {error}")
        return None


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file is as it was written. Raises HeadwaterError otherwise."""
    remedy = "It is left where it is; delete it when it is of no more use."
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise HeadwaterError(f"its manifest cannot be read: {error}", where=str(path), remedy=remedy) from error
    if manifest.get("format") != FORMAT:
        raise HeadwaterError(
            f"it has format {manifest.get('format')}, this version reads {FORMAT}", where=str(path), remedy=remedy
        )
    for name, (size, digest) in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size or sha256_file(file) != digest:
            raise HeadwaterError(f"{name} is missing or damaged", where=str(path), remedy=remedy)
    return manifest


# Saving ---------------------------------------------------------------------------------------------------------------


def _snapshot(engine: Engine, pending: Path) -> dict[Path, Any]:
    """What DeepSpeed would write, copied to host memory. Collective: ZeRO-3 gathers nothing, but all ranks must call."""
    collector = _Collector()
    deepspeed_engine = engine.runtime
    original = deepspeed_engine.checkpoint_engine
    deepspeed_engine.checkpoint_engine = collector
    deepspeed_engine._copy_recovery_script = lambda path: None
    try:
        deepspeed_engine.save_checkpoint(str(pending), tag=ENGINE, save_latest=False)
    finally:
        deepspeed_engine.checkpoint_engine = original
    return collector.files


def _describe_model(model: nn.Module, precision: str) -> dict[str, Json] | None:
    """Where in the engine's module the decoder is, and its shape: enough to open it without the job's code."""
    dtype = {"bf16": "bfloat16", "fp32": "float32"}[precision]
    for prefix, decoder in decoders_of(model).items():
        return {"prefix": prefix, "dtype": dtype, "config": decoder.config.model_dump(mode="json")}
    return None


class _Collector:
    """Stands in for DeepSpeed's checkpoint writer: keeps copies, touches no disk, so that it cannot fail half-way."""

    def __init__(self) -> None:
        self.files: dict[Path, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        self.files[Path(path)] = _to_host(state_dict)

    def create(self, info: Any) -> None:
        return None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        return None

    def commit(self, info: Any) -> bool:
        return True

    def is_decoupled(self) -> bool:
        return False

    def is_data_parallel_writer(self, rank: int) -> bool:
        return rank == 0

    def preserves_storage_sharing(self) -> bool:
        return False


def _to_host(value: Any) -> Any:
    """A deep copy with every tensor in host memory, each with a storage of its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, (dict, OrderedDict)):
        return type(value)((key, _to_host(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_to_host(item) for item in value)
    return value


def _attempt(action: Callable[[], Any]) -> str | None:
    try:
        action()
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _prepare(folder: Path, pending: Path) -> None:
    for leftover in folder.glob("step-*.tmp"):
        shutil.rmtree(leftover)
    (pending / ENGINE).mkdir(parents=True)


def _write_files(pending: Path, files: dict[Path, Any]) -> dict[str, list[Json]]:
    listed: dict[str, list[Json]] = {}
    for path, content in files.items():
        with path.open("wb") as stream:
            try:
                torch.save(content, stream)
            except RuntimeError as error:  # all that torch says of a full disk is that it stands at another position
                free = shutil.disk_usage(path.parent).free / 1e6
                raise OSError(f"{path.name} could not be written, {free:,.1f} MB are free on its disk") from error
            stream.flush()
            os.fsync(stream.fileno())
        listed |= [_listed(pending, path)]
    return listed


def _listed(pending: Path, path: Path) -> tuple[str, list[Json]]:
    return path.relative_to(pending).as_posix(), [path.stat().st_size, sha256_file(path)]


def _complete(pending: Path, target: Path, manifest: dict[str, Any]) -> None:
    write_json(pending / MANIFEST, manifest)
    fsync_folder(pending / ENGINE)
    fsync_folder(pending)
    if target.exists():  # a rerun of the same step after a rollback
        shutil.rmtree(target)
    os.replace(pending, target)
    fsync_folder(target.parent)


def _distributed() -> ModuleType:
    """``training.distributed_checkpoint``, of which the DeepSpeed engine needs nothing: torch's part of it takes as long to load
    as DeepSpeed."""
    from training import distributed_checkpoint

    return distributed_checkpoint


# Loading --------------------------------------------------------------------------------------------------------------


def _restore(engine: Engine, path: Path, manifest: dict[str, Any]) -> Loaded:
    same_ranks = manifest["ranks"] == engine.ranks.world_size
    stages = manifest["zero_stage"], engine.parallel.zero_stage
    if 0 in stages and stages != (0, 0):
        raise HeadwaterError(
            f"a checkpoint of ZeRO stage {stages[0]} cannot be continued at stage {stages[1]}",
            where=str(path),
            remedy="Stages 1, 2 and 3 can follow one another; stage 0 only itself.",
        )
    applied = manifest["step"] - manifest["held_steps"]
    engines = manifest.get("engine", "deepspeed"), engine.parallel.engine
    same_engine = engines[0] == engines[1] and _axes(manifest) == _layout(engine)
    exact = same_ranks and stages[0] == stages[1] and same_engine
    if engines == ("torch", "torch"):
        _distributed().load_shards(engine, path / ENGINE, applied)
    elif engines == ("torch", "deepspeed"):
        _distributed().load_into_deepspeed(engine, path / ENGINE, applied)
    elif engines == ("deepspeed", "torch"):
        with universal(engine, path) as folder:
            _distributed().load_universal(engine, folder / ENGINE, applied)
    elif exact or stages == (0, 0):
        load_engine(engine, path)
    else:
        load_elsewhere(engine, path, applied)
    engine.step, engine.skipped_steps = manifest["step"], manifest["held_steps"]
    rank_state: dict[str, Any] = {}
    if same_ranks:
        mine = torch.load(path / f"rank-{engine.ranks.rank}.pt", weights_only=True)
        _set_random_state(mine["random"])
        rank_state = mine["caller"]
    return Loaded(manifest["step"], manifest["state"], rank_state, exact)


def _layout(engine: Engine) -> dict[str, int]:
    virtual = engine.parallel.virtual_stages
    return engine.mesh.axes | ({"virtual_stages": virtual} if virtual > 1 else {})


def _axes(manifest: dict[str, Any]) -> dict[str, int]:
    """A manifest's mesh; older ones list its first two axes or, of DeepSpeed, none."""
    mesh = manifest.get("mesh", [1, manifest["ranks"]])
    return mesh if isinstance(mesh, dict) else Mesh(*mesh).axes


# Random generators ----------------------------------------------------------------------------------------------------


def _random_state() -> dict[str, Any]:
    legacy: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = legacy
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
