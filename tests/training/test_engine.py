"""One big batch, accumulation and several ranks are the same optimizer step, at every ZeRO stage."""

import json

import pytest
import torch
from pydantic import ValidationError

from tests.training.launch import run_ranks
from tests.training.ranks_engine import gradients, train
from training.create_engine import create_engine
from training.loader import MicroBatch
from training.model import ModelConfig, build_model
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import init_distributed
from training.validation import summed_loss
from training.weights import Weights

PROGRAM = "tests.training.ranks_engine"


BIG = {"stage": 1, "dtype": "fp32", "micro": 8}
PLAIN = {
    f"zero{stage}_micro{micro}": {"stage": stage, "dtype": "fp32", "micro": micro}
    for stage in (0, 1, 2, 3)
    for micro in (4, 2)
}
MUON = {f"muon_{name}": {**way, "optimizer": "muon"} for name, way in PLAIN.items() if way["micro"] == 2}
WAYS = PLAIN | {"offload": {"stage": 2, "dtype": "fp32", "micro": 2, "offload": True}}
BF16 = {f"bf16_zero{stage}": {"stage": stage, "dtype": "bf16", "micro": 2} for stage in (1, 2, 3)}
GRADIENTS = {
    f"gradients_zero{stage}": {"stage": stage, "micro": 2, "dtype": "fp32", "clip": 0.0, "measure": "gradients"}
    for stage in (0, 1, 2, 3)
}


@pytest.fixture(scope="module")
def two():
    """What one group of two ranks finds in all these ways: its start takes longer than they do."""
    return run_ranks(PROGRAM, 2, json.dumps(WAYS | BF16 | MUON | GRADIENTS), "steps")


def test_accumulation_batch_and_ranks_give_the_same_steps(two):
    one = train(init_distributed(), **BIG)
    one_muon = train(init_distributed(), **BIG, optimizer="muon")
    for name in WAYS:
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one, strict=True):
            assert loss == pytest.approx(expected_loss, rel=1e-6), name
            assert norm == pytest.approx(expected_norm, rel=1e-6), name
    for name in BF16:
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one, strict=True):
            assert loss == pytest.approx(expected_loss, rel=2e-3), name
            assert norm == pytest.approx(expected_norm, rel=1e-2), name
    for name in MUON:  # Newton-Schulz multiplies rounding by some hundreds
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one_muon, strict=True):
            assert loss == pytest.approx(expected_loss, rel=1e-5), name
            assert norm == pytest.approx(expected_norm, rel=1e-4), name


def test_every_parameter_has_the_same_gradient_accumulated_in_one_batch_and_on_two_ranks(two):
    batch = {"dtype": "fp32", "clip": 0.0}
    expected = gradients(init_distributed(), stage=1, micro=8, **batch)
    accumulated = gradients(init_distributed(), stage=1, micro=2, **batch)
    for name, found in {"accumulated": accumulated, **{name: two[name] for name in GRADIENTS}}.items():
        assert found.keys() == expected.keys()
        for parameter, values in expected.items():
            largest = max(abs(value) for value in values)
            assert largest > 0
            assert found[parameter] == pytest.approx(values, rel=1e-6, abs=1e-6 * largest), (name, parameter)


def test_bf16_without_zero_is_refused():
    with pytest.raises(ValidationError, match="zero_stage"):
        ParallelConfig(dtype="bf16", zero_stage=0)


def test_a_model_cut_up_while_it_is_built_is_the_same_model():
    ranks = init_distributed()
    shape = ModelConfig(vocab_size=50, hidden_size=32, layers=2, heads=4, kv_heads=2, intermediate_size=48)
    optimizer, parallel = OptimizerConfig(name="muon", lr=0.01), ParallelConfig(zero_stage=3, dtype="bf16")
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (2, 9))
    batch = MicroBatch(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 8), None, 16.0)

    def trail(model):
        engine = create_engine(model, optimizer, parallel, total_steps=4, ranks=ranks)
        return [engine.train_step([batch], summed_loss, lambda batch: batch.tokens).loss for _ in range(4)]

    assert trail(Weights.fresh(shape, 7).deferred()) == trail(build_model(shape, 7))
