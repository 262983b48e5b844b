"""Group-relative policy optimisation: what its promises are, on a model small enough to see them."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alignment.advantages import group_advantages
from alignment.conversations import render_prompt, stop_ids
from alignment.grpo import GrpoConfig, train
from alignment.grpo_update import Attempt, GrpoRules, attempt, experience, grpo_losses, update, weight
from alignment.job import ModelJob
from alignment.order import seed_of
from alignment.rollouts import ReplySettings
from alignment.turns import Message
from infra.job import JobRequest, load_result
from infra.job_main import Preempted
from infra.store.dataset import Dataset
from infra.store.manifest import output_digest
from tests.alignment.jobs import ANIMALS, build_world
from tests.alignment.toys import LetterTokenizer, tiny_decoder
from training.create_engine import create_engine
from training.engine import Engine
from training.job import StopSignal
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks, init_distributed
from training.schedule import ScheduleConfig

TOKENIZER = LetterTokenizer()
SETTINGS = ReplySettings(8, 1.0, tuple(stop_ids(TOKENIZER)), TOKENIZER.pad_id)
PROMPTS = [render_prompt(TOKENIZER, [Message("user", text)]) for text in ("hi", "who", "tell me more", "ok then")]
ONE = torch.ones(1)
LETTER = TOKENIZER.encode("a")[0]


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


def engine_of(ranks: Ranks, lr: float = 3e-3, steps: int = 60) -> Engine:
    optimizer = OptimizerConfig(lr=lr, weight_decay=0.0, schedule=ScheduleConfig(warmup_steps=2, min_lr_ratio=1.0))
    parallel = ParallelConfig(zero_stage=0, dtype="fp32")
    return create_engine(tiny_decoder(5), optimizer, parallel, total_steps=steps, ranks=ranks)


def letters(_problems: Any, replies: Any) -> Tensor:
    """How much of each reply is the letter a."""
    return torch.tensor([[reply.count(LETTER) / 8 for reply in replies]])


def tried(engine: Engine, rules: GrpoRules, number: int, prompts: list[list[int]] = PROMPTS) -> Attempt:
    places = list(range(len(prompts)))
    return attempt(engine, places, prompts, letters, ONE, SETTINGS, rules, seed_of("toy", number))


def everything(each: Attempt) -> Tensor:
    return torch.ones_like(each.mixed)


@pytest.mark.parametrize("chunks", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("mixed_only", [False, True])
def test_the_ratio_before_the_first_update_is_exactly_one(
    ranks: Ranks, chunks: list[list[int]], mixed_only: bool
) -> None:
    rules, engine = GrpoRules(loss="grpo", group_size=4, update_epochs=2), engine_of(ranks)
    for part in chunks:
        each = tried(engine, rules, len(part), [PROMPTS[place] for place in part])
        learnt = experience(each, each.mixed if mixed_only else everything(each), engine, None, SETTINGS, rules)
        assert learnt.log_probs is not None
        figures = engine.forward(grpo_losses(rules, SETTINGS), learnt)
        assert figures["approx_kl"].item() == 0 and figures["clipped"].item() == 0
        if learnt.counts:
            advantages = learnt.advantages.unsqueeze(1) / learnt.batch.mask.sum(1, keepdim=True)
            expected = -(advantages * learnt.batch.mask).sum()
            torch.testing.assert_close(figures["loss"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_it_finds_what_is_rewarded(ranks: Ranks, loss: str) -> None:
    wide = {"clip_low": 0.2, "clip_high": 0.2} if loss == "gspo" else {}
    rules = GrpoRules.model_validate({"loss": loss, "group_size": 8, "update_epochs": 2} | wide)
    engine, rewards = engine_of(ranks, lr=6e-3 if loss == "dr_grpo" else 3e-3), []
    for number in range(14):
        each = tried(engine, rules, number, PROMPTS * 2)
        rewards.append(each.rewards.mean().item())
        learnt = experience(each, everything(each), engine, None, SETTINGS, rules)
        update(engine.train_step, [learnt], rules, SETTINGS)
    assert np.mean(rewards[-2:]) > 3 * np.mean(rewards[:2]) + 0.02


def test_kl_holds_the_policy_back(ranks: Ranks) -> None:
    def moved(coefficient: float) -> float:
        rules = GrpoRules(loss="grpo", group_size=8, update_epochs=2, kl_coefficient=coefficient)
        engine, reference = engine_of(ranks), tiny_decoder(5)
        for number in range(8):
            each = tried(engine, rules, number, PROMPTS * 2)
            learnt = experience(each, everything(each), engine, reference, SETTINGS, rules)
            result = update(engine.train_step, [learnt], rules, SETTINGS)
        return result.losses["kl"] / result.losses["tokens"]

    assert moved(2.0) < 0.5 * moved(1e-9)


def test_groups_that_teach_nothing_are_left_out(ranks: Ranks) -> None:
    rules, engine = GrpoRules(group_size=4), engine_of(ranks)
    each = tried(engine, rules, 0)
    each = Attempt(
        each.prompts, each.sampled, torch.tensor([[0.0] * 4, [1, 0, 0, 1], [1.0] * 4, [0, 0, 1, 0]]), each.marks
    )
    assert each.mixed.tolist() == [False, True, False, True]
    learnt = experience(each, each.mixed, engine, None, SETTINGS, rules)
    assert len(learnt.advantages) == 8 and learnt.batch.tokens == int(
        each.sampled.batch.mask.view(4, 4, -1)[[1, 3]].sum()
    )
    assert learnt.advantages.abs().min() > 0 and weight(learnt, rules) == learnt.batch.tokens
    nothing = experience(each, torch.zeros(4, dtype=torch.bool), engine, None, SETTINGS, rules)
    losses = engine.forward(grpo_losses(rules, SETTINGS), nothing)
    assert weight(nothing, rules) == 0 and losses["loss"].item() == losses["tokens"].item() == 0


def test_advantages_are_of_the_group() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    assert group_advantages(rewards, scaled=False).tolist() == [[0.75, -0.25, -0.25, -0.25], [0.0] * 4]
    scaled = group_advantages(rewards, scaled=True)
    assert scaled[0].std().item() == pytest.approx(1, rel=1e-3) and scaled[1].tolist() == [0.0] * 4


def test_settings_beside_the_loss_are_kept_to() -> None:
    how = GrpoRules(loss="dapo", clip_high=0.5, dynamic_sampling=False).how
    assert (how.clip_low, how.clip_high, how.dynamic, how.scaled, how.mean_over) == (0.2, 0.5, False, True, "tokens")
    with pytest.raises(ValueError, match="no whole number of groups of 8"):
        GrpoConfig(micro_batch=20)
    with pytest.raises(ValueError, match="cannot be shared by 2 ranks"):
        GrpoConfig(batch_size=8, micro_batch=64, ranks=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return build_world(tmp_path_factory.mktemp("world"), 60)


def run_stage(folder: Path, ranks: Ranks, world: dict[str, Dataset], stop_after: int = 0) -> ModelJob[GrpoConfig]:
    """The whole stage on questions whose replies must not have the letter e; told to stop after so many rounds."""
    problems = folder.parent / "problems.jsonl"
    problems.write_text(
        "".join(json.dumps({"prompt": f"where is the {each}? {n}"}) + "\n" for n in range(4) for each in ANIMALS)
    )
    config = GrpoConfig.model_validate(
        {
            "problems": str(problems), "checks": [{"check": "format", "pattern": "[^e]*"}], "rounds": 6, "batch_size": 4,
            "group_size": 4, "micro_batch": 8, "max_reply_tokens": 12, "dtype": "fp32", "kl_coefficient": 0.01, "lr": 3e-3,
            "checkpoint_every": 2, "validate_every": 3, "held_out_fraction": 0.3, "update_epochs": 2,
        }
    )  # fmt: skip
    request = JobRequest("grpo", "0" * 12, {}, {"sft": world["pretrain"]}, folder / "dataset", folder / "work")
    for path in (request.data_dir, request.work_dir):
        path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    job = ModelJob(request, config, ranks, StopSignal())
    tell, told = job.emit, list[int]()

    def emit(kind: str, **fields: Any) -> None:
        tell(kind, **fields)
        told.extend([1] if kind == "progress" else [])
        if stop_after and len(told) == stop_after:
            signal.raise_signal(signal.SIGTERM)

    job.emit = emit  # type: ignore[method-assign]
    with job.stop:
        train(job)
    return job


def test_the_stage_told_to_stop_goes_on_to_the_same_bytes(
    ranks: Ranks, world: dict[str, Dataset], tmp_path: Path
) -> None:
    job = run_stage(tmp_path / "whole", ranks, world)
    stats, lines = job.stats, (job.request.data_dir / "metrics.jsonl").read_text().splitlines()
    assert stats["problems"]["train"] + stats["problems"]["held_out"] == 24 and stats["rounds"] == 6
    assert set(stats) >= {"before", "after", "gain", "best", "published_step"}
    first = json.loads(lines[0])
    assert set(first) >= {"reward", "solved", "teaching_groups", "entropy", "kl_per_token", "clipped", "finished"}
    rewards = [line["reward"] for line in map(json.loads, lines) if "reward" in line]
    assert rewards[-1] > rewards[0]
    with pytest.raises(Preempted):
        run_stage(tmp_path / "stopped", ranks, world, stop_after=1)
    again = run_stage(tmp_path / "stopped", ranks, world)
    digests = [output_digest(load_result(each.request.work_dir).outputs) for each in (job, again)]  # type: ignore[union-attr]
    assert digests[0] == digests[1]
