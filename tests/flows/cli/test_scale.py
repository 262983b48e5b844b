"""``headwater scale``: the mesh for some GPUs, and its refusal; what ``plan`` says of a recipe's mesh."""

import json

import pytest

from flows.checks import meshes
from flows.cli.main import _run
from flows.recipe import load_recipe
from training.parallel import Mesh, ParallelConfig

EIGHT = ["scale", "8B", "--gpus", "64", "--gpu", "h100", "--seq-len", "8192"]


def test_it_prints_the_mesh_and_the_lines_of_a_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(EIGHT) == 0
    shown = capfd.readouterr().out
    assert "mesh of" in shown and "nodes: 8" in shown and "parallel: {engine: torch" in shown


def test_a_misspelt_card_is_told_before_anything_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(["scale", "8B", "--gpus", "8", "--gpu", "h10"]) == 1
    told = capfd.readouterr()
    assert told.out == "" and "'h10' are not known" in told.err


def test_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run([*EIGHT, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {"bubble_share", "communication_gb_per_step"} <= found.keys()
    sizes = found["memory_gb_per_rank"]
    assert sizes["total"] == pytest.approx(sum(sizes.values()) / 2, abs=0.01)
    assert {"tokens", "memory: weights", "bubble", "step"} <= {note["name"] for note in found["derivation"]}
    assert ParallelConfig.model_validate(found["setting"]["parallel"]).mesh(64) == Mesh(**found["mesh"])


def test_where_none_fits_the_number_of_gpus_asked_for_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(["scale", "70B", "--gpus", "8", "--gpu", "h100"]) == 1
    assert "no mesh of 8 H100 holds a model" in capfd.readouterr().err
    assert _run(["scale", "--parameters", "70B", "--gpu", "h100"]) == 0
    assert "No mesh: no mesh of 8 H100" in capfd.readouterr().out
    assert _run(["scale", "1B", "--parameters", "2B"]) == 1
    assert "the size is given twice" in capfd.readouterr().err


def test_a_plan_says_what_a_rank_of_the_torch_engine_holds() -> None:
    assert meshes(load_recipe("demo").nodes) == []
    (said,) = meshes(load_recipe("demo", ["pretrain.parallel.engine=torch"]).nodes)
    assert said.startswith("pretrain: mesh of") and "GB a rank" in said
