"""One big batch, accumulation and several ranks are the same optimizer step, at every ZeRO stage."""

import json

import pytest
from pydantic import ValidationError

from tests.training.launch import run_ranks
from training.engine import ParallelConfig

PROGRAM = "tests.training.ranks_engine"


def test_accumulation_batch_and_ranks_give_the_same_steps():
    big = {"stage": 1, "dtype": "fp32", "micro": 8}
    alone = run_ranks(PROGRAM, 1, json.dumps({"adamw": big, "muon": {**big, "optimizer": "muon"}}))
    one = alone["adamw"]
    ways = {
        f"zero{stage}_micro{micro}": {"stage": stage, "dtype": "fp32", "micro": micro}
        for stage in (0, 1, 2, 3)
        for micro in (4, 2)
    }
    muon = {f"muon_{name}": {**way, "optimizer": "muon"} for name, way in ways.items() if way["micro"] == 2}
    ways["offload"] = {"stage": 2, "dtype": "fp32", "micro": 2, "offload": True}
    bf16 = {f"bf16_zero{stage}": {"stage": stage, "dtype": "bf16", "micro": 2} for stage in (1, 2, 3)}
    two = run_ranks(PROGRAM, 2, json.dumps({**ways, **bf16, **muon}))
    for name in ways:
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one, strict=True):
            assert loss == pytest.approx(expected_loss, rel=1e-6), name
            assert norm == pytest.approx(expected_norm, rel=1e-6), name
    for name in bf16:
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one, strict=True):
            assert loss == pytest.approx(expected_loss, rel=2e-3), name
            assert norm == pytest.approx(expected_norm, rel=1e-2), name
    for name in muon:  # Newton-Schulz multiplies rounding by some hundreds
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], alone["muon"], strict=True):
            assert loss == pytest.approx(expected_loss, rel=1e-5), name
            assert norm == pytest.approx(expected_norm, rel=1e-4), name


def test_bf16_without_zero_is_refused():
    with pytest.raises(ValidationError, match="zero_stage"):
        ParallelConfig(dtype="bf16", zero_stage=0)
