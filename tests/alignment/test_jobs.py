"""The stages as real jobs on two ranks: each learns, and whatever is killed publishes the same bytes."""

import gzip
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from alignment.conversations import render_reply
from alignment.pairs import tokenize_pairs
from alignment.preferences import read_pairs
from infra.job import load_result
from pipeline.tokenizer import Tokenizer
from tests.alignment.jobs import ANIMALS, PLACES, AlignmentJob, build_world
from tests.support import kill_family
from tests.training.test_foreign import llama3
from training.chat import ChatSession
from training.checkpoint_list import list_checkpoints
from training.generate import Sampling
from training.hub_format import load_model, load_reward_model

pytestmark = pytest.mark.slow

# The fine-tuned model soon speaks like the people; a higher temperature keeps the two apart.
HEAT = 1.3
HELD_OUT = 0.2
SFT: dict[str, Any] = {
    "held_out_fraction": HELD_OUT,
    "row_length": 64,
    "batch_size": 16,
    "micro_batch": 8,
    "lr": 5e-3,
    "epochs": 5,
}
PREFERENCES: dict[str, Any] = {
    "train_prompts": 400,
    "held_out_prompts": 80,
    "prompts_per_conversation": 3,
    "max_reply_tokens": 32,
    "chunk": 16,
    "temperature": HEAT,
    "held_out_fraction": HELD_OUT,
}
REWARD: dict[str, Any] = {"batch_size": 16, "micro_batch": 8, "lr": 1e-3}
PPO: dict[str, Any] = {
    "rounds": 10,
    "batch_size": 32,
    "micro_batch": 16,
    "lr": 1e-3,
    "max_reply_tokens": 32,
    "checkpoint_every": 3,
    "evaluation_prompts": 48,
    "kl_target": 4.0,
    "temperature": HEAT,
}
DPO: dict[str, Any] = {"batch_size": 16, "micro_batch": 8, "lr": 1e-3}
GRPO: dict[str, Any] = {
    "checks": [{"check": "format", "pattern": ".*garden.*"}, {"check": "format", "pattern": "the .*", "weight": 0.1}],
    "rounds": 10,
    "batch_size": 8,
    "group_size": 8,
    "micro_batch": 16,
    "update_epochs": 2,
    "lr": 1e-3,
    "max_reply_tokens": 32,
    "checkpoint_every": 3,
    "held_out_fraction": 0.3,
    "temperature": HEAT,
}


BEST_OF_N: dict[str, Any] = {
    "samples": 4,
    "train_prompts": 60,
    "held_out_prompts": 20,
    "chunk": 4,
    "max_reply_tokens": 32,
    "temperature": HEAT,
}
SETTINGS = {
    "sft": SFT,
    "preferences": PREFERENCES,
    "reward": REWARD,
    "ppo": PPO,
    "dpo": DPO,
    "grpo": GRPO,
    "best_of_n": BEST_OF_N,
}


class World:
    """The stages' datasets, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inputs = build_world(folder)
        self.jobs: dict[str, AlignmentJob] = {}

    def job(self, name: str, folder: Path, **changes: Any) -> AlignmentJob:
        settings = SETTINGS[name]
        if name == "grpo":
            changes["problems"] = [str(self.problems())]
        return AlignmentJob(folder, name, self.inputs, settings | changes)

    def problems(self) -> Path:
        """Questions after animals; what is wanted is that they are in the garden."""
        path = self.folder / "problems.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"where is the {animal}?"}) + "\n" for animal in ANIMALS * 3))
        return path

    def finished(self, name: str) -> AlignmentJob:
        """The stage's job, with those before it, run to its end."""
        before = {"preferences": ["sft"], "reward": ["preferences"], "ppo": ["reward"], "dpo": ["preferences"]}
        before |= {"grpo": ["sft"], "best_of_n": ["reward"]}
        for stage in before.get(name, []):
            self.finished(stage)
        if name not in self.jobs:
            job = self.job(name, self.folder / name)
            job.run()
            self.inputs[name] = job.publish()
            self.jobs[name] = job
        return self.jobs[name]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def wait_for(condition: Callable[[], Any], timeout: float = 180) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def stop_ranks(process: Any) -> None:
    """As a launcher that was told to stop: SIGTERM to every rank."""
    for rank in psutil.Process(process.pid).children(recursive=True):
        os.kill(rank.pid, signal.SIGTERM)
    process.wait(60)


def test_fine_tuning_lowers_the_held_out_loss(world: World) -> None:
    job = world.finished("sft")
    result = load_result(job.request.work_dir)
    assert result and result.stats["validation_loss"] < 0.5 * result.stats["validation_loss_before"]
    assert load_model(job.request.data_dir / "model").config.vocab_size == 400
    undigested = {output.path for output in result.outputs if not output.digested}
    written = {path for path in undigested if not path.startswith("data/tensorboard/")}
    assert written == {"data/metrics.jsonl", "data/conversations.json", "ledger/conversations.parquet"}
    assert written < undigested


@pytest.mark.parametrize(
    "more", [{}, {"lora": {"rank": 4}, "neftune": 5.0, "max_steps": 8}], ids=["plain", "adapters and noise"]
)
def test_fine_tuning_told_to_stop_goes_on_to_the_same_bytes(world: World, tmp_path: Path, more: dict[str, Any]) -> None:
    job = world.job("sft", tmp_path / "stopped", **more)
    process = job.start()
    wait_for(lambda: job.lines())
    stop_ranks(process)
    assert load_result(job.request.work_dir) is None
    assert list_checkpoints(job.request.checkpoint_dir), "it left no checkpoint"
    job.run()
    whole = world.finished("sft") if not more else world.job("sft", tmp_path / "whole", **more)
    if more:
        whole.run()
        assert {file.path for file in load_result(whole.request.work_dir).outputs} >= {  # type: ignore[union-attr]
            "data/adapter/adapter_config.json", "data/adapter/adapter_model.safetensors"
        }  # fmt: skip
    assert job.digest() == whole.digest()


def test_pairs_are_real_and_kept_apart_and_do_not_depend_on_the_ranks(world: World, tmp_path: Path) -> None:
    job = world.finished("preferences")
    path = job.request.data_dir / "pairs.parquet"
    train, held_out = read_pairs(path, "train"), read_pairs(path, "held_out")
    assert len(train) > 80 and len(held_out) > 20
    talks = [{pair.id.split("/")[0] for pair in part} for part in (train, held_out)]
    assert not talks[0] & talks[1]
    assert all(pair.chosen and pair.rejected and pair.chosen != pair.rejected for pair in train + held_out)
    result = load_result(job.request.work_dir)
    assert result
    assert result.stats["prompts"] == pq.read_metadata(path).num_rows + sum(
        result.stats["refused"].get(reason, 0)
        for reason in ("sampled_reply_never_ends", "sampled_reply_empty", "same_replies")
    )
    alone = world.job("preferences", tmp_path, ranks=1)
    alone.run(ranks=1)
    assert alone.digest() == job.digest()


@pytest.mark.parametrize("name", ["preferences", "best_of_n"])
def test_killed_sampling_goes_on_with_the_missing_chunks(world: World, tmp_path: Path, name: str) -> None:
    whole, job = world.finished(name), world.job(name, tmp_path)
    chunks = job.request.work_dir / "chunks"
    process = job.start()
    wait_for(lambda: len(list(chunks.glob("*.json"))) >= 2)
    kill_family(process)
    assert load_result(job.request.work_dir) is None
    times = {path: path.stat().st_mtime_ns for path in chunks.glob("*.json")}
    job.run()
    assert all(path.stat().st_mtime_ns == before for path, before in times.items()), "a chunk was sampled twice"
    assert job.digest() == whole.digest()


def test_the_reward_model_ranks_held_out_pairs(world: World) -> None:
    job = world.finished("reward")
    accuracy = job.figures("reward.json")["accuracy"]
    assert accuracy["low"] > 0.5 and accuracy["low"] < accuracy["value"] <= accuracy["high"]
    decoder, score = load_reward_model(job.request.data_dir / "model")
    assert score.shape == (1, decoder.config.hidden_size) and score.abs().max() > 0


def test_ppo_raises_the_mean_reward_on_held_out_prompts(world: World) -> None:
    figures = world.finished("ppo").figures("reward_eval.json")
    assert figures["reward"]["ppo"]["value"] > figures["reward"]["sft"]["value"]
    assert figures["reward"]["gain"]["low"] > 0
    assert figures["kl"]["value"] > 0


def test_a_killed_ppo_run_resumes_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    job = world.job("ppo", tmp_path) if world.finished("reward") else None
    assert job
    process = job.start()
    wait_for(lambda: list_checkpoints(job.request.checkpoint_dir))
    kill_family(process)
    assert load_result(job.request.work_dir) is None
    job.run()
    assert job.digest() == world.finished("ppo").digest()
    timed = {"tokens_per_s", "mfu"}
    logs = [
        [{k: v for k, v in line.items() if k not in timed} for line in run.lines()] for run in (job, world.jobs["ppo"])
    ]
    assert logs[0] == logs[1] and {line["step"] for line in logs[0]} == set(range(1, PPO["rounds"] + 1))


def test_grpo_solves_more_and_killed_it_resumes_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    whole = world.finished("grpo")
    solved = [line["solved"] for line in whole.lines() if "solved" in line]
    assert solved[-1] > solved[0] + 0.2 and whole.figures("grpo.json")["after"]["solved"]["value"] == 1
    assert set(whole.lines()[0]) >= {"reward", "teaching_groups", "entropy", "reply_tokens", "finished"}
    job = world.job("grpo", tmp_path)
    process = job.start()
    wait_for(lambda: list_checkpoints(job.request.checkpoint_dir))
    kill_family(process)
    assert load_result(job.request.work_dir) is None
    job.run()
    assert job.digest() == whole.digest()


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_dpo_widens_the_margin_and_killed_it_resumes_to_the_same_bytes(world: World, tmp_path: Path, loss: str) -> None:
    world.finished("preferences")
    whole, killed = (world.job("dpo", tmp_path / name, loss=loss, checkpoint_every=2) for name in ("whole", "killed"))
    figures = whole.run().stats
    assert figures["margin"]["low"] > 0 and figures["accuracy"]["low"] > 0.5
    process = killed.start()
    wait_for(lambda: list_checkpoints(killed.request.checkpoint_dir))
    kill_family(process)
    assert load_result(killed.request.work_dir) is None
    killed.run()
    assert killed.digest() == whole.digest()


def test_the_last_batch_and_every_reply_count(world: World) -> None:
    """Whole epochs over all rows, and a ledger that tells of each conversation what became of it."""
    job = world.finished("sft")
    result = load_result(job.request.work_dir)
    assert result
    stats = result.stats
    assert stats["steps"] == -(-stats["rows"] * SFT["epochs"] // SFT["batch_size"]) and stats["untaught"] == {}
    fates = pq.read_table(job.request.dataset_root / "ledger/conversations.parquet").to_pylist()
    assert len(fates) == 400 == len({fate["id"] for fate in fates}) and {fate["verdict"] for fate in fates} == {"kept"}
    assert Counter(fate["rule"] for fate in fates)["held_out"] == pytest.approx(400 * HELD_OUT, rel=0.3)
    generation = stats["generation"]
    assert generation["after"]["finished"]["value"] > generation["before"]["finished"]["value"] + 0.3
    assert not result.warnings


def test_sampled_replies_are_read_as_the_tokens_they_were(world: World) -> None:
    job = world.finished("preferences")
    pairs = read_pairs(job.request.data_dir / "pairs.parquet", "train")
    tokenizer = Tokenizer.load(world.inputs["tokenizer"].local("data"))
    tokens = tokenize_pairs(tokenizer, pairs)
    assert [tuple(pair.rejected) for pair in tokens] == [pair.rejected_ids for pair in pairs]
    assert any(
        pair.rejected != render_reply(tokenizer, text.rejected) for pair, text in zip(tokens, pairs, strict=True)
    )
    assert all(pair.chosen == render_reply(tokenizer, text.chosen) for pair, text in zip(tokens, pairs, strict=True))


def test_the_best_step_is_published_whatever_was_killed(world: World, tmp_path: Path) -> None:
    world.finished("preferences")
    best = {"publish": "best", "validate_every": 2, "checkpoint_every": 3, "lr": 4e-3, "epochs": 3}
    whole, killed = (world.job("reward", tmp_path / name, **best) for name in ("whole", "killed"))
    result = whole.run()
    measured = {line["step"]: line["held_out_accuracy"] for line in whole.lines() if "held_out_accuracy" in line}
    step = max(measured, key=lambda step: (measured[step], -step))
    assert result.stats["published_step"] == step == result.stats["best"]["step"]
    assert result.stats["accuracy"]["value"] == measured[step]
    process = killed.start()
    wait_for(lambda: len(list_checkpoints(killed.request.checkpoint_dir)) > 1)
    kill_family(process)
    killed.run()
    assert killed.digest() == whole.digest()


def test_comparisons_of_ones_own_feed_reward_and_dpo(world: World, tmp_path: Path) -> None:
    world.finished("sft")
    talks = [(f"where is the {animal}?", f"the {animal} is {place}.") for animal in ANIMALS for place in PLACES]
    chats = [f"\n\nHuman: {question} {number}\n\nAssistant: " for number, (question, _) in enumerate(talks * 8)]
    lines = [
        {"chosen": chat + answer, "rejected": chat + "never mind"}
        for chat, (_, answer) in zip(chats, talks * 8, strict=True)
    ]
    bad = [{"chosen": "x"}, lines[0], {"prompt": "a " * 300, "chosen": "b", "rejected": "c"}]
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines + bad).encode()))
    job = world.job("preferences", tmp_path / "preferences", pairs=str(path))
    result = job.run()
    assert result.stats["refused"] == {"not_a_pair": 1, "same_pair": 1, "too_long": 1} and result.warnings
    assert sum(result.stats["pairs"].values()) == len(lines)
    ledger = pq.read_table(job.request.dataset_root / "ledger/pairs.parquet").to_pylist()
    fates = [fate for fate in ledger if fate["verdict"] != "kept"]
    assert len(ledger) == len(lines) + len(bad)
    assert [fate["rule"] for fate in fates] == ["not_a_pair", "same_pair", "too_long"]
    assert "line 241 of own.jsonl.gz" in fates[0]["detail"]
    inputs = world.inputs | {"preferences": job.publish()}
    reward = AlignmentJob(tmp_path / "reward", "reward", inputs, REWARD)
    assert reward.run().stats["accuracy"]["low"] > 0.5
    assert AlignmentJob(tmp_path / "dpo", "dpo", inputs, DPO).run().stats["accuracy"]["low"] > 0.5


def test_a_model_from_elsewhere_is_fine_tuned_and_aligned_in_its_own_form(world: World, tmp_path: Path) -> None:
    base = llama3(tmp_path / "base")
    sft = world.job("sft", tmp_path / "sft", base_model=str(base), row_length=128, generation_tokens=32)
    stats = sft.run().stats
    assert stats["validation_loss"] < 0.5 * stats["validation_loss_before"]
    assert stats["generation"]["after"]["finished"]["value"] > 0.5
    folder = sft.request.data_dir / "model"
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    session = ChatSession.open(folder, sampling=Sampling(temperature=0, max_new_tokens=60))
    assert "fish" in session.reply("where is the fish?")
    path = tmp_path / "own.jsonl"
    own = [
        {"prompt": f"where is the {a}? {n}", "chosen": f"the {a}.", "rejected": "no"}
        for a in ANIMALS
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in own))
    pairs = world.job("preferences", tmp_path / "pairs", base_model=str(folder), pairs=[str(path)])
    pairs.run()
    inputs = {"preferences": pairs.publish()}
    dpo = AlignmentJob(tmp_path / "dpo", "dpo", inputs, DPO | {"base_model": str(folder), "generation_tokens": 16})
    assert dpo.run().stats["margin"]["low"] > 0
