"""The stage of preference losses, whole, in one rank: every kind of loss learns from pairs, KTO from rated replies too."""

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.dpo import DpoConfig, train
from alignment.job import ModelJob
from infra.job import JobRequest
from infra.store.dataset import Dataset
from tests.alignment.jobs import ANIMALS, build_world, write_pairs
from training.job import StopSignal
from training.ranks import Ranks, init_distributed


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


def job_of(folder: Path, ranks: Ranks, inputs: dict[str, Dataset], **settings: Any) -> ModelJob[DpoConfig]:
    request = JobRequest("dpo", "0" * 12, {}, inputs, folder / "dataset", folder / "work")
    for path in (request.data_dir, request.work_dir):
        path.mkdir(parents=True, exist_ok=True)
    shared = {"dtype": "fp32", "lr": 2e-3, "batch_size": 8, "micro_batch": 4, "generation_prompts": 0}
    return ModelJob(request, DpoConfig.model_validate(shared | settings), ranks, StopSignal())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("dpo")
    world = build_world(folder, 60)
    found = world | {"sft": world["pretrain"]}
    talks = [
        (f"where is the {animal}? {number}", "in the house.", "on the tree.")
        for animal in ANIMALS
        for number in range(4)
    ]
    return found | {"preferences": write_pairs(folder / "preferences", ranks, found, talks)}


@pytest.mark.parametrize("loss", ["sigmoid", "simpo"])
def test_pairs_are_told_apart(ranks: Ranks, inputs: dict[str, Dataset], tmp_path: Path, loss: str) -> None:
    job = job_of(tmp_path, ranks, inputs, loss=loss, epochs=3)
    train(job)
    assert job.stats["accuracy"]["value"] == 1 and job.stats["margin"]["low"] > 0
    kept = sorted(path.name for path in job.request.work_dir.glob("reference-*.npy"))
    assert kept == ([] if loss == "simpo" else ["reference-held_out.npy", "reference-train.npy"])


def test_kto_learns_from_pairs_and_from_replies_rated_alone(
    ranks: Ranks, inputs: dict[str, Dataset], tmp_path: Path
) -> None:
    rows = [{"prompt": f"is it a {each}?", "completion": "yes.", "label": n % 2 == 0} for n, each in enumerate(ANIMALS)]
    path = tmp_path / "rated.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "x"}]))
    job = job_of(tmp_path, ranks, inputs, loss="kto", epochs=3, rated=str(path))
    train(job)
    lines = [json.loads(line) for line in (job.request.data_dir / "metrics.jsonl").read_text().splitlines()]
    points = [line["reference_point"] for line in lines if "reference_point" in line]
    assert points[0] == pytest.approx(0, abs=1e-5) and len(points) == -(-(2 * 16 + 6) * 3 // 8)
    assert job.stats["margin"]["low"] > 0
    assert any("not_rated" in sentence for sentence in job.warnings)
