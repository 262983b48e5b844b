"""A checkpoint opens as the model that was being trained when it was made, and that is what is published, a weight at a time."""

import json

import pytest
import torch

from infra.errors import InputError
from tests.training.launch import run_ranks
from tests.training.ranks_checkpoint_model import differing
from training.checkpoint import list_checkpoints
from training.checkpoint_model import checkpoint_of_step, checkpoint_weights, is_checkpoint, save_checkpoint_model
from training.ranks import init_distributed

AT_ONCE = 5
"""Of the largest weight; the model has 25 of its size. One is read, one a copy, and gloo's threads let go a moment later."""


@pytest.fixture(scope="module")
def ranks():
    torch.set_num_threads(1)
    return init_distributed()


@pytest.mark.parametrize(
    ("stage", "dtype", "engine"),
    [(0, "fp32", "deepspeed"), (1, "bf16", "deepspeed"), (3, "bf16", "deepspeed"), (1, "bf16", "torch")],
)
def test_weights_are_those_of_the_forward_pass(ranks, tmp_path, stage, dtype, engine):
    different, held = differing(ranks, tmp_path, stage, dtype, engine=engine)
    assert different == [] and held <= AT_ONCE


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_weights_cut_up_among_ranks_are_put_together_one_by_one(tmp_path, count):
    answers = run_ranks("tests.training.ranks_checkpoint_model", count, str(tmp_path))
    assert [different for different, _ in answers] == [[]] * {2: 14, 3: 6}[count]
    assert max(held for _, held in answers) <= AT_ONCE


@pytest.fixture
def checkpoint(ranks, tmp_path):
    differing(ranks, tmp_path / "checkpoints", 1, "bf16")
    ((_, path),) = list_checkpoints(tmp_path / "checkpoints")
    return path


def test_a_checkpoint_is_found_by_its_step(checkpoint, tmp_path):
    assert is_checkpoint(checkpoint) and not is_checkpoint(tmp_path)
    assert checkpoint_of_step(tmp_path, 3) == checkpoint
    with pytest.raises(InputError, match="no checkpoint of step 4"):
        checkpoint_of_step(tmp_path, 4)


def test_what_cannot_be_opened_is_refused_with_a_sentence(checkpoint, tmp_path):
    with pytest.raises(InputError, match="tokenizer is found by the request"):
        save_checkpoint_model(checkpoint, tmp_path / "model")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"model": None}))
    with pytest.raises(InputError, match="does not say what model"):
        checkpoint_weights(checkpoint)
    (checkpoint / "engine" / "mp_rank_00_model_states.pt").write_bytes(b"x")
    with pytest.raises(InputError, match="missing or damaged"):
        checkpoint_weights(checkpoint)
