"""Whole stages in one process group, and the gradient each takes its first step with; run under torchrun by test_ranks."""

import contextlib
import importlib
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from alignment import dpo
from alignment.job import ModelJob
from alignment.replies import RewardModel, collate
from alignment.rollouts import Prompt, ReplySettings, Sampled
from infra.job import JobRequest, load_request
from infra.job_main import Preempted, leave
from training.checkpoint_list import list_checkpoints
from training.create_engine import deepspeed_config
from training.engine import Engine, StepResult
from training.job import StopSignal
from training.model import Decoder
from training.ranks import Ranks, distributed


def run_stage(request: JobRequest, ranks: Ranks, scripted: bool, stop_at: int = 0) -> dict[str, Any]:
    """Run a stage, or until a signal that comes in step ``stop_at``. Its figures, and of its first step the losses, what they
    are a mean over, and the gradients.

    ``scripted``: replies are made up and not sampled, which would depend on how a round is cut into chunks; and the
    reference is another model: equal ones would hide what is divided wrongly.
    """
    module = importlib.import_module(f"alignment.{request.stage}")
    for path in (request.data_dir, request.work_dir):
        path.mkdir(parents=True, exist_ok=True)
    config = module.STAGE.config.model_validate(request.config)
    job: ModelJob[Any] = ModelJob(request, config, ranks, StopSignal())
    first: dict[str, Any] = {}
    update = Engine._update

    def recorded(engine: Engine, means: dict[str, float], weight: float) -> StepResult:
        if not first:
            first.update(losses=means, weight=weight, gradients=gradients(engine))
        result = update(engine, means, weight)
        job.stop.received = engine.step == stop_at
        return result

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch("training.create_engine.deepspeed_config", cut_up))
        patches.enter_context(mock.patch.object(Engine, "_update", recorded))
        if scripted:
            patches.enter_context(mock.patch("alignment.ppo_update.sample", script))
            patches.enter_context(mock.patch("alignment.grpo_update.sample", script))
            patches.enter_context(mock.patch.object(ModelJob, "base_model", base_model))
            patches.enter_context(mock.patch("alignment.reward.RewardModel", scoring))
            patches.enter_context(mock.patch.object(dpo, "reference_log_probs", reference_log_probs))
        patches.enter_context(contextlib.suppress(Preempted))
        module.train(job)
    lines = [json.loads(line) for line in (request.data_dir / "metrics.jsonl").read_text().splitlines()]
    return {**first, "steps": [line["loss"] for line in lines if "loss" in line], "stats": job.stats}


def cut_up(*arguments: Any) -> dict[str, Any]:
    """ZeRO-3 leaves parameters of fewer than 100,000 numbers whole on every rank: those of a toy, all."""
    config = deepspeed_config(*arguments)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def gradients(engine: Engine) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_grad

    if engine.parallel.engine == "torch":
        cut = {name.removeprefix("model."): engine.runtime.weights[name] for name in engine.runtime.pieces}
        return {name: each.grad.full_tensor().clone() for name, each in cut.items()}
    learns = {name: each for name, each in engine.model.named_parameters() if each.requires_grad}
    sharded = engine.parallel.zero_stage > 0
    return {
        name: (safe_get_full_grad(each) if sharded else each.grad).detach().clone() for name, each in learns.items()
    }


def script(model: Decoder, prompts: Sequence[Prompt], settings: ReplySettings, seed: int) -> Sampled:
    """Made-up replies, by the prompt and how often it was asked; every third one does not end."""
    asked, replies = Counter[tuple[int, ...]](), []
    for prompt in map(tuple, prompts):
        asked[prompt] += 1
        chance = random.Random(f"{prompt} {asked[prompt]}")
        replies.append([chance.randrange(10, 400) for _ in range(chance.randint(1, settings.max_new_tokens))])
    finished = torch.tensor([len(reply) % 3 > 0 for reply in replies], device=model.device)
    return Sampled(collate(prompts, replies, settings.pad_id, model.device), replies, finished)


_base_model, _reference_log_probs = ModelJob.base_model, dpo.reference_log_probs


def base_model(job: ModelJob[Any], frozen: bool = False) -> Decoder:
    model, generator = _base_model(job, frozen), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters() if frozen else ():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return model


def scoring(decoder: Decoder, score: Tensor | None = None) -> RewardModel:
    """From a score of zero, none but the score itself has a gradient."""
    drawn = torch.randn(1, decoder.config.hidden_size, generator=torch.Generator().manual_seed(2))
    return RewardModel(decoder, drawn if score is None else score)


def reference_log_probs(*arguments: Any) -> np.ndarray:
    values = _reference_log_probs(*arguments)
    return values + np.random.default_rng(0).normal(-0.5, 0.5, values.shape)


def main() -> None:
    torch.set_num_threads(1)
    folder, scripted = Path(sys.argv[1]), sys.argv[2] == "scripted"
    with distributed() as ranks:
        for path in sorted(folder.glob("*/request.json")):
            request, then = load_request(path), path.parent / "then.json"
            if then.exists():
                run_stage(request, ranks, scripted, stop_at=2)
                assert list_checkpoints(request.checkpoint_dir)[-1][0] == 2, "it was not stopped"
                request = replace(request, config=request.config | json.loads(then.read_text()))
            found = run_stage(request, ranks, scripted)
            if ranks.first:
                torch.save(found, path.parent / "found.pt")
        if ranks.first:
            print("ANSWER null")


if __name__ == "__main__":
    main()
    leave()
