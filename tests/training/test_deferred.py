"""Engines read a model that no rank holds, and have the weights that they would have had of it."""

import json

import pytest
import torch
from torch import nn

from tests.training.folders import write_tokenizer
from tests.training.launch import run_ranks
from tests.training.ranks_checkpoint_model import SHAPE
from tests.training.ranks_deferred import built
from training.create_engine import create_engine
from training.deferred import defer
from training.hub_format import save_model
from training.model import build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import init_distributed

AT_ONCE = 3
"""Of the largest weight, beyond a rank's own part; the model has 25 of its size. One is read, or drawn and cast."""


def check(answers: dict[str, tuple[list[str], float]]) -> None:
    for name, (different, held) in answers.items():
        assert different == [], name
        assert held <= AT_ONCE, name


@pytest.fixture
def folder(tmp_path):
    save_model(build_model(SHAPE, 0), tmp_path / "model", write_tokenizer(tmp_path / "words"))
    return tmp_path / "model"


def test_one_rank_has_the_weights_of_a_model_built_whole(folder):
    ranks = init_distributed()
    check({"fresh": built(ranks), "from a folder": built(ranks, folder), "deepspeed": built(ranks, engine="deepspeed")})


def test_two_ranks_hold_their_part_and_one_weight(folder):
    cases = {"folder": {}, "stage 1": {"zero_stage": 1}, "deepspeed": {"engine": "deepspeed"}}
    cases |= {"deepspeed, folder": {"engine": "deepspeed"}, "shard": {}}
    cases |= {axis: {axis: 2} for axis in ("replicate", "context", "tensor", "pipeline")}
    check(run_ranks("tests.training.ranks_deferred", 2, str(folder), json.dumps(cases)))


@pytest.mark.slow
def test_four_ranks_hold_their_part_and_one_weight_on_any_mesh(folder):
    meshes = [{"pipeline": 2, "virtual_stages": 2}, {"context": 4}, {"engine": "deepspeed"}, {}]
    meshes += [{"tensor": 2, axis: 2} for axis in ("replicate", "context", "pipeline")] + [{"tensor": 2}]
    check(run_ranks("tests.training.ranks_deferred", 4, str(folder), json.dumps({str(mesh): mesh for mesh in meshes})))


class Tied(nn.Module):
    """Two modules with one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((4,), 3.0))


@pytest.mark.parametrize("settings", [{"engine": "torch"}, {"engine": "torch", "zero_stage": 3}, {"zero_stage": 3}, {}])
def test_one_weight_of_two_modules_stays_one_and_buffers_stay(settings):
    model, reads = Tied(), []
    weight = torch.randn(4, 4)
    model.first.weight = model.second.weight = nn.Parameter(torch.empty(4, 4, device="meta"))

    def read(name: str) -> torch.Tensor:
        reads.append(name)
        return weight

    parallel = ParallelConfig(dtype="fp32", **settings)
    engine = create_engine(defer(model, read), OptimizerConfig(), parallel, total_steps=1, ranks=init_distributed())
    assert reads == ["first.weight"] and list(engine.shapes()) == reads
    assert torch.equal(engine.weight("first.weight"), weight)
    assert engine.model.first.weight is engine.model.second.weight
    assert engine.evaluate(lambda model: model.scale.tolist()) == [3.0] * 4
