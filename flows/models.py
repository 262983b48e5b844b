"""Finding the model a person means, who writes one of these:

    sft, ppo@demo, pretrain/3fa9        the model of a stage, of another label, of a fingerprint
    pretrain:120, pretrain@demo:120     that stage's checkpoint of step 120; step-00000120 alone is pretrain's
    a folder                            of a Hugging Face model, or a checkpoint (step-00000120) where its job left it

A checkpoint is turned into a model folder in a temporary place.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InputError
from infra.store.dataset import Dataset
from infra.store.store import Store

MODEL_STAGES = ("export", "grpo", "dpo", "ppo", "sft", "pretrain", "reward")
MODEL_HELP = "A stage, name@label, name/fingerprint, a checkpoint (pretrain:120 or its folder), a Hugging Face folder."
_STEP = re.compile(r"(?:(?P<name>.+):)?(?:step-(?P<padded>\d+)|(?P<step>\d+))")


def model_dataset(store: Store, text: str, label: str = "latest") -> Dataset:
    """The dataset of a model: ``sft``, ``ppo@demo``, ``pretrain/3fa9``."""
    dataset = store.resolve(text, label)
    if dataset.name not in MODEL_STAGES:
        raise InputError(
            f"dataset {dataset.name!r} holds no model", remedy=f"Models come from: {', '.join(MODEL_STAGES)}."
        )
    return dataset


@contextlib.contextmanager
def model_folder(store: Store, text: str, label: str = "latest") -> Iterator[Path]:
    """The Hugging Face folder of a model named in one of these ways; that of a checkpoint is made, and gone afterwards."""
    if (Path(text) / "config.json").is_file():
        yield Path(text)
        return
    checkpoint = _checkpoint(store, text, label)
    if checkpoint is None:
        dataset = model_dataset(store, text, label)
        inner = dataset.local("data/model")
        yield inner if inner.is_dir() else dataset.local("data")
        return
    from training.checkpoint_model import save_checkpoint_model

    with tempfile.TemporaryDirectory(prefix="headwater-model-") as folder:
        save_checkpoint_model(checkpoint, Path(folder))
        yield Path(folder)


def _checkpoint(store: Store, text: str, label: str) -> Path | None:
    """The checkpoint folder that is meant, if it is one."""
    path, named = Path(text), _STEP.fullmatch(text)
    if not named and not (path / "engine").is_dir():
        return None
    from training.checkpoint_model import checkpoint_of_step, is_checkpoint  # brings torch

    if is_checkpoint(path):
        return path
    if not named:
        return None
    dataset = model_dataset(store, named["name"] or "pretrain", label)
    work = store.work_root(dataset.name, dataset.manifest.fingerprint)
    return checkpoint_of_step(work, int(named["padded"] or named["step"]))
