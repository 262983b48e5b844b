"""The models that a job starts from, out of its input datasets."""

import json
from typing import Any, TypeVar

from torch import nn

from alignment.job import ModelJob
from alignment.replies import RewardModel
from training.hub_format import DTYPES, load_config, load_model, load_reward_model
from training.model import Decoder

Model = TypeVar("Model", bound=nn.Module)


def base_model(job: ModelJob[Any]) -> Decoder:
    """The model that the stage starts from, to be trained further."""
    return load_model(job.model_folder, DTYPES[job.config.dtype], job.ranks.device)


def position_limit(job: ModelJob[Any]) -> int:
    """The longest sequence, in tokens, that the model takes."""
    return load_config(job.model_folder).max_position


def reward_model(job: ModelJob[Any]) -> RewardModel:
    """The reward stage's model with the scale of its scores."""
    folder = job.data("reward")
    figures = json.loads((folder / "reward.json").read_text())
    decoder, score = load_reward_model(folder / "model", DTYPES[job.config.dtype], job.ranks.device)
    return RewardModel(decoder, score, figures["mean"], figures["std"])


def frozen(model: Model) -> Model:
    """A model that only judges."""
    return model.eval().requires_grad_(False)
