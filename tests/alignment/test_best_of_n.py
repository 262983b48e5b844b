"""Pairs of a model's own replies: the best and the worst by the reward model, the same after a kill."""

from pathlib import Path

import pytest
import torch

from alignment.best_of_n import BestOfNConfig, prompts, run
from alignment.job import ModelJob
from alignment.pair_files import Pair
from alignment.pairs import tokenize_pairs
from alignment.ppo import reward_model
from alignment.preferences import read_pairs
from alignment.replies import collate
from alignment.turns import Message
from flows.recipe import load_recipe
from infra.job import JobRequest
from infra.store.dataset import Dataset
from tests.alignment.jobs import ANIMALS, build_world, write_pairs, write_reward_model
from training.job import StopSignal
from training.ranks import Ranks, init_distributed

CONFIG = BestOfNConfig(
    samples=8, train_prompts=8, held_out_prompts=6, max_reply_tokens=100, chunk=4, dtype="fp32", least_margin=0.01
)


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


def job_of(folder: Path, ranks: Ranks, inputs: dict[str, Dataset]) -> ModelJob[BestOfNConfig]:
    request = JobRequest("best_of_n", "0" * 12, {}, inputs, folder / "dataset", folder / "work")
    for path in (request.data_dir, request.work_dir):
        path.mkdir(parents=True, exist_ok=True)
    return ModelJob(request, CONFIG, ranks, StopSignal())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("best-of-n")
    world = build_world(folder, 120)
    found = world | {"sft": world["pretrain"], "reward": write_reward_model(folder / "reward", world["pretrain"])}
    talks = [(f"where is the {animal}? {number}", "here", "there") for animal in ANIMALS for number in range(4)]
    return found | {"preferences": write_pairs(folder / "preferences", ranks, found, talks)}


def test_the_best_reply_is_preferred_to_the_worst_and_a_kill_samples_nothing_twice(
    ranks: Ranks, inputs: dict[str, Dataset], tmp_path: Path
) -> None:
    job = job_of(tmp_path, ranks, inputs)
    run(job)
    path = job.request.data_dir / "pairs.parquet"
    pairs = [pair for split in ("train", "held_out") for pair in read_pairs(path, split)]
    assert len(pairs) > 8 and job.stats["prompts"] == 14 == len(pairs) + job.stats["no_pair"]
    tokens, judge = tokenize_pairs(job.tokenizer, pairs), reward_model(job, frozen=True)
    with torch.no_grad():
        better, worse = (
            judge.judge(collate([t.prompt for t in tokens], [getattr(t, side) for t in tokens], job.tokenizer.pad_id))
            for side in ("chosen", "rejected")
        )
    torch.testing.assert_close(better - worse, torch.tensor([pair.margin for pair in pairs]), rtol=1e-4, atol=1e-4)
    assert all(pair.margin >= 0.01 and pair.chosen != pair.rejected for pair in pairs)
    before, chunks = path.read_bytes(), sorted((job.request.work_dir / "chunks").glob("*.json"))
    chunks[1].unlink()
    times = {chunk: chunk.stat().st_mtime_ns for chunk in chunks if chunk.exists()}
    run(job_of(tmp_path, ranks, inputs))
    assert path.read_bytes() == before and all(chunk.stat().st_mtime_ns == time for chunk, time in times.items())


def test_prompts_with_tools_are_asked_each_once(
    ranks: Ranks, inputs: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, call = ({"name": "find"},), {"function": {"name": "find", "arguments": {"a": 1}}}
    asked = (Message("system", "", tools), Message("user", "where?"))
    called = (Message("user", "where?"), Message("assistant", "", tool_calls=(call,)), Message("tool", "here"))
    pairs = [Pair(str(n), prompt, "a", "b") for n, prompt in enumerate([asked, called, asked])]
    monkeypatch.setattr("alignment.best_of_n.pairs_of", lambda job, split: pairs if split == "train" else [])
    job = job_of(tmp_path, ranks, inputs)
    job.config = CONFIG.model_copy(update={"max_reply_tokens": 8})
    found = prompts(job)
    assert sorted(len(pair.prompt) for pair in found) == [2, 3]


def test_a_recipe_repeats_the_two_stages(tmp_path: Path) -> None:
    recipe = tmp_path / "online.yaml"
    recipe.write_text(
        "recipe: online\nextends: smoke\nstages:\n"
        "  best_of_n: {}\n"
        "  dpo: {inputs: {preferences: best_of_n}}\n"
        "  best_of_n_2: {use: best_of_n, inputs: {sft: dpo}, seed: 1}\n"
        "  dpo_2: {use: dpo, inputs: {sft: dpo, preferences: best_of_n_2}, seed: 1}\n"
    )
    nodes = {node.name: node for node in load_recipe(str(recipe)).nodes}
    order = [name for name in nodes if name in ("best_of_n", "dpo", "best_of_n_2", "dpo_2")]
    assert order == ["best_of_n", "dpo", "best_of_n_2", "dpo_2"]
    assert nodes["dpo_2"].upstream == {"sft": "dpo", "preferences": "best_of_n_2"}
    assert nodes["best_of_n_2"].upstream == {"sft": "dpo", "reward": "reward", "preferences": "preferences"}
