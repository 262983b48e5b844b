"""Ours: the loss and the gradients of each case, and sampling and updating in turns.

``python -m tests.benchmarks.align_parts.ours losses|speed FOLDER``: reads ``model``, ``reward``, ``cases.json``.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from alignment.dpo import DpoConfig, dpo_losses
from alignment.grpo_update import Experience, GrpoRules, grpo_losses, weight
from alignment.kto import Rated, kto_losses, other_log_ratios, rated_batch
from alignment.losses import PreferenceRules
from alignment.packing import pack
from alignment.pairs import PairTokens, halves, pair_batch
from alignment.replies import RewardModel, collate, reply_log_probs
from alignment.reward import reward_losses
from alignment.rollouts import ReplySettings, sample
from alignment.sft import PackedBatch, sft_losses
from alignment.turns import Rendered
from infra.job_main import leave
from training.create_engine import create_engine
from training.hub_format import SCORE, load_model, load_reward_model
from training.model import Decoder
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import distributed
from training.schedule import ScheduleConfig

CPU = torch.device("cpu")


def losses(folder: Path) -> dict[str, float]:
    """By case; the gradients go to ``ours-CASE.safetensors``, under Hugging Face's names."""
    torch.set_num_threads(1)
    cases = json.loads((folder / "cases.json").read_text())
    found = {}
    for name, case in cases.items():
        model: nn.Module = load_model(folder / "model")
        if case["kind"] == "reward":
            model = RewardModel(*load_reward_model(folder / "reward"))
        loss = KINDS[case["kind"]](model, case)
        loss.backward()
        found[name] = loss.item()
        save_file(gradients(model), folder / f"ours-{name}.safetensors")
    return found


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            bare = name.removeprefix("decoder.")
            found[bare if bare in (SCORE, "lm_head.weight") else f"model.{bare}"] = parameter.grad
    return found


def _pairs(case: dict[str, Any]) -> list[PairTokens]:
    return [PairTokens(row["prompt"], row["chosen"], row["rejected"]) for row in case["rows"]]


def _sft(model: Decoder, case: dict[str, Any]) -> Tensor:
    pieces = [
        Rendered(row["prompt"] + row["chosen"], [False] * len(row["prompt"]) + [True] * len(row["chosen"]))
        for row in case["rows"]
    ]
    batch = PackedBatch.of(pack(pieces, 64, 0), CPU)
    return sft_losses(model, batch)["loss"] / batch.tokens


def _reward(model: RewardModel, case: dict[str, Any]) -> Tensor:
    batch = pair_batch(_pairs(case), np.arange(len(case["rows"])), 0, CPU)
    return reward_losses(model, batch)["loss"] / batch.pairs


def _preference(model: Decoder, case: dict[str, Any]) -> Tensor:
    batch = pair_batch(_pairs(case), np.arange(len(case["rows"])), 0, CPU)
    config = DpoConfig.model_validate({"chosen_loss": 0.0} | case["settings"])
    return dpo_losses(model, batch, torch.tensor(case["known"]), config)["loss"] / batch.pairs


def _kto(model: Decoder, case: dict[str, Any]) -> Tensor:
    given = Rated(_pairs(case), np.array(case["liked"]))
    batch = rated_batch(given, np.array(case["known"]), np.arange(len(given.rows)), 0, CPU)
    rules = PreferenceRules.model_validate({"loss": "kto"} | case["settings"])
    with torch.no_grad():
        point = max(float(other_log_ratios(model, batch).mean()), 0.0)
    return kto_losses(model, batch, point, rules, 0.0)["loss"] / len(batch.liked)


def _group(model: Decoder, case: dict[str, Any]) -> Tensor:
    rules = GrpoRules.model_validate(case["settings"])
    batch = collate([row["prompt"] for row in case["rows"]], [row["chosen"] for row in case["rows"]], 0)

    def spread(values: Sequence[Sequence[float]]) -> Tensor:
        flat = torch.tensor([value for row in values for value in row])
        return torch.zeros(batch.mask.shape).masked_scatter(batch.mask, flat)

    each = Experience(batch, torch.tensor(case["advantages"]), spread(case["old"]), spread(case["reference"]))
    settings = ReplySettings(case["longest"], 1.0, (7,), 0)
    return grpo_losses(rules, settings)(model, each)["loss"] / weight(each, rules)


KINDS: dict[str, Callable[[Any, dict[str, Any]], Tensor]] = {
    "sft": _sft,
    "reward": _reward,
    "preference": _preference,
    "kto": _kto,
    "group": _group,
}


def known(folder: Path, rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Log-probabilities of chosen and rejected replies under the model, as a reference's."""
    batch = pair_batch(_pairs({"rows": rows}), np.arange(len(rows)), 0, CPU)
    with torch.no_grad():
        return torch.stack(halves(reply_log_probs(load_model(folder), batch.replies).sum(1)), 1).tolist()


def speed(folder: Path) -> None:
    """Waits for ``go`` before each turn, as the peer does; prints what a turn took."""
    plan = json.loads((folder / "speed.json").read_text())
    torch.set_num_threads(plan["threads"])
    rules = GrpoRules(loss="grpo", group_size=plan["group"])
    prompts = [prompt for prompt in plan["prompts"] for _ in range(plan["group"])]
    settings = ReplySettings(plan["longest"], 1.0, tuple(plan["stops"]), 0)
    advantages = torch.linspace(-1, 1, len(prompts))
    optimizer = OptimizerConfig(lr=1e-6, schedule=ScheduleConfig(warmup_steps=0, min_lr_ratio=1.0))
    with distributed() as ranks:
        engine = create_engine(
            load_model(folder / "model"), optimizer, ParallelConfig(zero_stage=0, dtype="fp32"), total_steps=10_000,
            ranks=ranks,
        )  # fmt: skip
        update = grpo_losses(rules, settings)
        for turn, _ in enumerate(sys.stdin):
            began = time.perf_counter()
            sampled = engine.evaluate(lambda policy, turn=turn: sample(policy, prompts, settings, turn))
            between = time.perf_counter()
            replies = plan["replies"]
            batch = collate(prompts, replies, 0)
            for _ in range(plan["updates"]):
                each = Experience(batch, advantages, None, None)
                engine.train_step([each], update, lambda each: weight(each, rules))
            report = {"sample_s": between - began, "update_s": time.perf_counter() - between}
            report["tokens"] = sum(map(len, sampled.replies))
            print("TURN " + json.dumps(report), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "speed":
        speed(Path(sys.argv[2]))
    else:
        print(json.dumps(losses(Path(sys.argv[2]))))
    leave()
