"""One big batch, accumulation and several ranks are the same optimizer step, at every ZeRO stage."""

import json

import pytest
from pydantic import ValidationError

from tests.training.launch import run_ranks
from training.engine import ParallelConfig


def test_accumulation_batch_and_ranks_give_the_same_steps():
    one = run_ranks(
        "tests.training.ranks_engine",
        1,
        json.dumps({"big": {"stage": 1, "dtype": "fp32", "micro": 8}}),
    )["big"]
    ways = {
        f"zero{stage}_micro{micro}": {"stage": stage, "dtype": "fp32", "micro": micro}
        for stage in (0, 1, 2, 3)
        for micro in (4, 2)
    }
    ways["offload"] = {"stage": 2, "dtype": "fp32", "micro": 2, "offload": True}
    bf16 = {f"bf16_zero{stage}": {"stage": stage, "dtype": "bf16", "micro": 2} for stage in (1, 2, 3)}
    two = run_ranks("tests.training.ranks_engine", 2, json.dumps({**ways, **bf16}))
    for name in ways:
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one, strict=True):
            assert loss == pytest.approx(expected_loss, rel=1e-6), name
            assert norm == pytest.approx(expected_norm, rel=1e-6), name
    for name in bf16:
        for (loss, norm), (expected_loss, expected_norm) in zip(two[name], one, strict=True):
            assert loss == pytest.approx(expected_loss, rel=2e-3), name
            assert norm == pytest.approx(expected_norm, rel=1e-2), name


def test_bf16_without_zero_is_refused():
    with pytest.raises(ValidationError, match="zero_stage"):
        ParallelConfig(dtype="bf16", zero_stage=0)
