"""Finding the model a person means: a stage's name, a label, a fingerprint, or a Hugging Face folder."""

from pathlib import Path

from infra.errors import InputError
from infra.store.dataset import Dataset
from infra.store.store import Store

MODEL_STAGES = ("export", "dpo", "ppo", "sft", "pretrain", "reward")


def model_dataset(store: Store, text: str, label: str = "latest") -> Dataset:
    """The dataset of a model: ``sft``, ``ppo@demo``, ``pretrain/3fa9``."""
    dataset = store.resolve(text, label)
    if dataset.name not in MODEL_STAGES:
        raise InputError(
            f"dataset {dataset.name!r} holds no model", remedy=f"Models come from: {', '.join(MODEL_STAGES)}."
        )
    return dataset


def model_folder(store: Store, text: str, label: str = "latest") -> Path:
    """The Hugging Face folder of a model named as above, or given as a folder."""
    folder = Path(text)
    if (folder / "config.json").is_file():
        return folder
    dataset = model_dataset(store, text, label)
    inner = dataset.local("data/model")
    return inner if inner.is_dir() else dataset.local("data")
