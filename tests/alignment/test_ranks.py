"""One batch, accumulation and two ranks are the same step for every objective; every stage runs at every ZeRO stage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.job import JobRequest, write_request
from infra.store.dataset import Dataset
from tests.alignment.jobs import ANIMALS, PLACES, build_world, request_of, write_pairs, write_reward_model
from tests.alignment.ranks_stages import run_stage
from tests.training.launch import run_ranks
from training.ranks import Ranks, init_distributed

PROGRAM = "tests.alignment.ranks_stages"
SUPERVISED: dict[str, Any] = {"batch_size": 7, "max_steps": 1, "clip": 0.0}
ANSWERING: dict[str, Any] = SUPERVISED | {"generation_prompts": 0}
PPO: dict[str, Any] = {
    "batch_size": 8, "rounds": 1, "critic_rounds": 0, "max_reply_tokens": 12, "evaluation_prompts": 1, "clip": 0.0,
    "entropy_bonus": 0.01, "kl_coefficient": 0.5,
}  # fmt: skip
GRPO: dict[str, Any] = {
    "batch_size": 4, "group_size": 4, "rounds": 1, "max_reply_tokens": 12, "evaluation_problems": 1, "clip": 0.0,
    "held_out_fraction": 0.3, "kl_coefficient": 0.5, "checks": [{"check": "format", "pattern": "[^e]*"}],
}  # fmt: skip
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", ANSWERING | {"row_length": 64}),
    "sft-large": ("sft", ANSWERING | {"row_length": 64, "batch_size": 12}),
    "sft-lora": ("sft", ANSWERING | {"row_length": 64, "lora": {"rank": 4}, "neftune": 5.0}),
    "reward": ("reward", SUPERVISED),
    "reward-votes": ("reward", SUPERVISED | {"margin": 1.0, "centring": 0.01, "linear_probe": 0.01}),
    **{f"dpo-{name}": ("dpo", ANSWERING | {"loss": name}) for name in ("sigmoid", "ipo", "hinge", "simpo", "kto")},
    "dpo-robust": ("dpo", ANSWERING | {"loss": "robust", "label_smoothing": 0.1}),
    "dpo-orpo": ("dpo", ANSWERING | {"loss": "orpo", "chosen_loss": 1.0}),
    "ppo": ("ppo", PPO),
    **{f"grpo-{name}": ("grpo", GRPO | {"loss": name}) for name in ("grpo", "dr_grpo", "dapo", "gspo")},
}
WHOLE, CUT = (
    {"sft": 8, "reward": 8, "dpo": 8, "ppo": 8, "grpo": 16},
    {"sft": 2, "reward": 3, "dpo": 2, "ppo": 2, "grpo": 4},
)
"""Examples of a micro batch: all of them, and a few."""


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("world")
    world = build_world(folder, 40)
    world |= {"sft": world["pretrain"], "reward": write_reward_model(folder / "reward", world["pretrain"])}
    talks = [
        (f"where is the {animal}? {n}", f"the {animal} is {PLACES[n % 5]}.", PLACES[(n + 2) % 5][n % 7 :])
        for n in range(7)
        for animal in ANIMALS
    ]
    pairs = write_pairs(folder / "pairs", ranks, world, talks)
    votes = write_pairs(folder / "votes", ranks, world, talks, votes=True)
    problems = folder / "problems.jsonl"
    problems.write_text("".join(json.dumps({"prompt": talk[0]}) + "\n" for talk in talks))
    return world | {"preferences": pairs, "votes": votes, "problems": problems}  # type: ignore[dict-item]


def request(folder: Path, name: str, inputs: dict[str, Any], **changes: Any) -> JobRequest:
    stage, settings = OBJECTIVES[name]
    own = {"problems": [str(inputs["problems"])]} if stage == "grpo" else {}
    given = inputs | ({"preferences": inputs["votes"]} if name == "reward-votes" else {})
    return request_of(folder, stage, given, settings | own | changes)


def equal(found: dict[str, Any], expected: dict[str, Any], to: float = 1e-6) -> None:
    assert found["weight"] == pytest.approx(expected["weight"], rel=1e-12)
    for name, value in expected["losses"].items():
        assert found["losses"][name] == pytest.approx(value, rel=to, abs=to), name
    assert found["gradients"].keys() == expected["gradients"].keys()
    error, size = (
        torch.stack([each.double().square().sum() for each in parts]).sum().sqrt().item()
        for parts in (
            [found["gradients"][name] - values for name, values in expected["gradients"].items()],
            expected["gradients"].values(),
        )
    )
    assert size > 0 and error <= to * size


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulation_is_one_batch(name: str, ranks: Ranks, inputs: dict[str, Any], tmp_path: Path) -> None:
    stage = OBJECTIVES[name][0]
    whole, cut = (
        run_stage(request(tmp_path / str(micro), name, inputs, micro_batch=micro, ranks=1), ranks, scripted=True)
        for micro in (WHOLE[stage], CUT[stage])
    )
    equal(cut, whole)


@pytest.mark.slow
def test_two_ranks_are_one_batch(ranks: Ranks, inputs: dict[str, Any], tmp_path: Path) -> None:
    for name, (stage, _) in OBJECTIVES.items():
        write_request(request(tmp_path / name, name, inputs, micro_batch=CUT[stage]))
    run_ranks(PROGRAM, 2, str(tmp_path), "scripted")
    for name, (stage, _) in OBJECTIVES.items():
        whole = request(tmp_path / f"{name} whole", name, inputs, micro_batch=WHOLE[stage], ranks=1)
        equal(torch.load(tmp_path / name / "found.pt"), run_stage(whole, ranks, scripted=True))


MESHES: dict[str, dict[str, Any]] = {
    "shards": {},
    "shards of weights": {"zero_stage": 3},
    "replicas": {"zero_stage": 2, "replicate": 2},
    "slices": {"tensor": 2},
    "slices of shards": {"tensor": 2, "zero_stage": 3},
    "parts of rows": {"context": 2, "zero_stage": 3},
    "stages": {"pipeline": 2},
}
"""Of two ranks under the torch engine."""


def of_one_rank(ways: dict[str, Sequence[str]], inputs: dict[str, Any], folder: Path, ranks: Ranks) -> None:
    """Objectives take on meshes the steps that they take on one rank: three, scripted."""
    for name, meshes in ways.items():
        stage, settings = OBJECTIVES[name]
        longer = {"rounds": 3} if "rounds" in settings else {"max_steps": 3}
        for mesh in meshes:
            own = {"engine": "torch", "micro_batch": CUT[stage], **longer, **MESHES[mesh]}
            write_request(request(folder / f"{name} {mesh}", name, inputs, **own))
        whole = request(folder / f"{name} whole", name, inputs, micro_batch=WHOLE[stage], ranks=1, **longer)
        torch.save(run_stage(whole, ranks, scripted=True), folder / f"{name}.pt")
    run_ranks(PROGRAM, 2, str(folder), "scripted", timeout=900)
    for name, meshes in ways.items():
        expected = torch.load(folder / f"{name}.pt")
        for mesh in meshes:
            found = torch.load(folder / f"{name} {mesh}/found.pt")
            if (
                mesh == "stages"
            ):  # the first rank has its own layers' gradients only; the next steps' losses tell of the others
                found["gradients"] = expected["gradients"]
            equal(found, expected, 1e-5)
            assert found["steps"] == pytest.approx(expected["steps"], rel=1e-5), (name, mesh)
            assert ("2 slices of a matrix" in found["stats"]["mesh"]) == ("tensor" in MESHES[mesh])


def test_the_torch_engine_takes_the_steps_of_one_rank(ranks: Ranks, inputs: dict[str, Any], tmp_path: Path) -> None:
    ways = {
        "sft": "parts of rows",
        "reward": "slices",
        "dpo-sigmoid": "slices",
        "ppo": "shards of weights",
        "grpo-dapo": "slices",
    }
    of_one_rank({name: [mesh] for name, mesh in ways.items()}, inputs, tmp_path, ranks)


@pytest.mark.slow
def test_every_objective_takes_them_on_every_mesh(ranks: Ranks, inputs: dict[str, Any], tmp_path: Path) -> None:
    every = ["shards", "shards of weights", "replicas", "slices", "slices of shards"]
    ways = {name: every[:3] if name == "sft-lora" else every for name in OBJECTIVES}
    ways["sft-large"] = list(MESHES)
    of_one_rank(ways, inputs, tmp_path, ranks)


STOPPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sft": (MESHES["slices"], MESHES["slices"]),
    "sft-lora": (MESHES["shards"], {"engine": "deepspeed"}),
    "reward": (MESHES["slices of shards"], {"engine": "deepspeed", "tensor": 1}),
    "dpo-sigmoid": ({"engine": "deepspeed", "zero_stage": 2}, MESHES["slices"]),
    "ppo": (MESHES["shards of weights"], MESHES["shards of weights"]),
    "grpo-gspo": (MESHES["slices"], MESHES["shards of weights"] | {"tensor": 1}),
}
"""What ranks train on until a signal comes in the second step, and what they go on with."""


@pytest.mark.slow
def test_a_stage_goes_on_to_the_same_bytes_or_under_another_mesh_or_engine(
    ranks: Ranks, inputs: dict[str, Any], tmp_path: Path
) -> None:
    for name, (first, then) in STOPPED.items():
        stage, settings = OBJECTIVES[name]
        longer = {"rounds": 3} if "rounds" in settings else {"max_steps": 4}
        own = {"engine": "torch", "micro_batch": CUT[stage], **longer}
        write_request(request(tmp_path / name, name, inputs, **own | first))
        (tmp_path / name / "then.json").write_text(json.dumps({"engine": "torch", **then}))
        write_request(request(tmp_path / f"{name} unstopped", name, inputs, **own | first))
    run_ranks(PROGRAM, 2, str(tmp_path), "scripted", timeout=900)
    for name, (first, then) in STOPPED.items():
        stopped, unstopped = (
            torch.load(folder / "found.pt") for folder in (tmp_path / name, tmp_path / f"{name} unstopped")
        )
        assert stopped["steps"] == pytest.approx(unstopped["steps"], rel=1e-5), name
        if first == then:
            one, other = (
                tmp_path / folder / "dataset/data/model/model.safetensors" for folder in (name, f"{name} unstopped")
            )
            assert one.read_bytes() == other.read_bytes(), name


STAGES: dict[str, dict[str, Any]] = {
    "sft": {"batch_size": 7, "micro_batch": 2, "max_steps": 3, "row_length": 64, "validation_rows": 5}
    | {"generation_prompts": 5, "generation_tokens": 16},
    "reward": {"batch_size": 7, "micro_batch": 2, "max_steps": 3},
    **{
        f"dpo-{loss}": {"batch_size": 7, "micro_batch": 2, "max_steps": 3, "generation_prompts": 3, "loss": loss}
        | {"generation_tokens": 16}
        for loss in ("sigmoid", "kto")
    },
    "ppo": {"batch_size": 8, "micro_batch": 2, "rounds": 2, "critic_rounds": 0, "max_reply_tokens": 24}
    | {"evaluation_prompts": 3},
    "grpo": {"batch_size": 4, "group_size": 4, "micro_batch": 8, "rounds": 2, "max_reply_tokens": 24}
    | {"evaluation_problems": 3, "held_out_fraction": 0.3, "checks": [{"check": "format", "pattern": "[^e]*"}]},
}
"""Odd numbers, so that a rank has less to do than the other; replies end when they do."""


WAYS: dict[str, dict[str, Any]] = {
    **{f"ZeRO {stage}": {"zero_stage": stage} for stage in (1, 2, 3)},
    **{name: {"engine": "torch"} | MESHES[name] for name in ("shards", "shards of weights", "slices")},
}


@pytest.mark.slow
def test_every_stage_runs_under_either_engine(ranks: Ranks, inputs: dict[str, Any], tmp_path: Path) -> None:
    """Generation included: where weights are in pieces a rank whose replies are shorter must not leave the other waiting."""
    for name, settings in STAGES.items():
        stage = name.partition("-")[0]
        own = {"problems": [str(inputs["problems"])]} if stage == "grpo" else {}
        for way, more in WAYS.items():
            write_request(request_of(tmp_path / f"{name} {way}", stage, inputs, settings | own | more))
    run_ranks(PROGRAM, 2, str(tmp_path), "sampled", timeout=600)
    for name in STAGES:
        one, *others = (torch.load(tmp_path / f"{name} {way}/found.pt") for way in WAYS)
        for way, other in zip(list(WAYS)[1:], others, strict=True):
            # A policy that still is its reference ranks pairs by rounding.
            sure = {name: value for name, value in one["losses"].items() if name != "accuracy" or way != "slices"}
            equal(other, one | {"losses": sure}, 1e-6 if way.startswith("ZeRO") else 1e-5)
            assert other["steps"] == pytest.approx(one["steps"], rel=1e-4), (name, way)
