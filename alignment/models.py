"""Models in and out of a job: from input datasets, and into the stage's own ``data/model``."""

import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alignment.job import Job
from alignment.replies import RewardModel
from training.engine import Engine
from training.hub_format import load_config, load_model, load_reward_model, save_model
from training.model import Decoder

Model = TypeVar("Model", bound=nn.Module)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def base_model(job: Job[Any]) -> Decoder:
    """The model that the stage starts from, to be trained further."""
    return load_model(job.model_folder, DTYPES[job.config.dtype], job.ranks.device)


def position_limit(job: Job[Any]) -> int:
    """The longest sequence that the model takes."""
    return load_config(job.model_folder).max_position


def reward_model(job: Job[Any]) -> RewardModel:
    """The reward stage's model with the scale of its scores."""
    folder = job.data("reward")
    figures = json.loads((folder / "reward.json").read_text())
    decoder, score = load_reward_model(folder / "model", DTYPES[job.config.dtype], job.ranks.device)
    return RewardModel(decoder, score, figures["mean"], figures["std"])


def frozen(model: Model) -> Model:
    """A model that only judges."""
    return model.eval().requires_grad_(False)


def save_policy(job: Job[Any], engine: Engine, policy: Callable[[Any], Decoder], **more: bool) -> None:
    """Write the trained decoder and the metrics, and finish the job."""
    _save(job, engine, lambda model: (policy(model), None), more)


def save_reward(job: Job[Any], engine: Engine, **more: bool) -> None:
    """Write the reward model and the metrics, and finish the job."""
    _save(job, engine, lambda model: (model.decoder, model.score.weight), more)


def _save(
    job: Job[Any], engine: Engine, parts: Callable[[Any], tuple[Decoder, Tensor | None]], more: Mapping[str, bool]
) -> None:
    job.phase("publishing")
    outputs = dict(more)
    with engine.whole_model() as model:
        if job.ranks.first:
            decoder, score = parts(model)
            folder = job.request.data_dir / "model"
            outputs |= model_outputs(save_model(decoder, folder, job.model_folder, score=score))
            outputs |= keep_metrics(job)
    job.finish(outputs)


def model_outputs(names: list[str]) -> dict[str, bool]:
    return {f"data/model/{name}": True for name in names}


def keep_metrics(job: Job[Any]) -> dict[str, bool]:
    """Copy the log of the steps beside the model."""
    source = job.request.work_dir / "metrics.jsonl"
    shutil.copyfile(source, job.request.data_dir / "metrics.jsonl")
    return {"data/metrics.jsonl": False}
