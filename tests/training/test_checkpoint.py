"""A resumed run is the run that was interrupted; a damaged or unfinished checkpoint costs only itself."""

import json

import pytest
import torch

from tests.training.launch import run_ranks
from tests.training.ranks_checkpoint import resume
from tests.training.ranks_engine import advance, build
from training.checkpoint import Checkpoints, verify
from training.checkpoint_list import list_checkpoints
from training.ranks import init_distributed

PROGRAM = "tests.training.ranks_checkpoint"


def check_exact(answer):
    assert answer["resumed"] == answer["after"]
    assert answer["exact"] and answer["carry"] and answer["noise"]
    assert answer["consumed"] == 32, "the save that failed on one rank must not count"
    assert len(answer["warnings"]) == 1 and "step-00000008 was not saved" in answer["warnings"][0]


def check_close(answer, expected):
    assert answer["step"] == 4
    for (loss, norm), (expected_loss, expected_norm) in zip(answer["resumed"], expected["after"], strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-3)
        assert norm == pytest.approx(expected_norm, rel=5e-3)


def on_ranks(number, command, folder, cases, **options):
    return run_ranks(PROGRAM, number, command, str(folder), json.dumps({"all": cases}), **options)["all"]


TORCH = {"engine": "torch"}
TENSOR = {**TORCH, "tensor": 2, "model": "decoder"}
PIPELINE = {**TORCH, "pipeline": 2, "model": "decoder"}
SHARED_ROWS = {**TORCH, "context": 2, "model": "decoder"}
SAVED = {
    "deepspeed": [[1, "bf16", "muon", {}], [3, "fp32", "adamw", {}]],
    "torch": [
        [1, "bf16", "muon", TORCH],
        [3, "fp32", "adamw", TORCH],
        [1, "fp32", "muon", {}],
        [2, "fp32", "adamw", TENSOR],
        [2, "fp32", "muon", SHARED_ROWS],
        [1, "fp32", "adamw", PIPELINE],
    ],
}


@pytest.fixture(scope="module")
def saved_on_two(tmp_path_factory):
    """The folder of what one group of two ranks saved, and what it found."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, run_ranks(PROGRAM, 2, "save", str(folder), json.dumps(SAVED))


def test_resume_is_exact_on_two_ranks_and_close_on_one(saved_on_two):
    folder, answers = saved_on_two[0] / "deepspeed", saved_on_two[1]["deepspeed"]
    for answer in answers:
        check_exact(answer)
    resumed = resume(init_distributed(), folder, 1, "bf16", "muon", 1)
    assert not resumed["exact"]
    check_close(resumed, answers[0])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("saving", "resuming"), [(2, 1), (1, 2)])
def test_every_stage_and_rank_count_can_follow_another(tmp_path, saving, resuming):
    kinds = [("bf16", "adamw"), ("fp32", "adamw"), ("fp32", "muon")]
    saved = [[stage, *kind, {}] for stage in (1, 2, 3) for kind in kinds] + [[0, "fp32", "adamw", {}]]
    answers = on_ranks(saving, "save", tmp_path, saved)
    for answer in answers:
        check_exact(answer)
    expected = {tuple(case[:-1]): answer for case, answer in zip(saved, answers, strict=True)}
    moves = [[stage, *kind, new, {}] for stage in (1, 2, 3) for new in (1, 2, 3) for kind in kinds]
    moves += [[0, "fp32", "adamw", 0, {}]]
    resumed = on_ranks(resuming, "resume", tmp_path, moves, timeout=900)
    for (*kind, _, _), answer in zip(moves, resumed, strict=True):
        check_close(answer, expected[tuple(kind)])


def test_the_torch_engine_resumes_exactly_and_follows_other_ranks_and_deepspeed(saved_on_two):
    folder, answers = saved_on_two[0] / "torch", saved_on_two[1]["torch"]
    for answer in answers:
        check_exact(answer)
    moves = [
        (0, (1, "bf16", "muon", 3), TORCH),
        (1, (3, "fp32", "adamw", 1), TORCH),
        (0, (1, "bf16", "muon", 1), {}),
        (1, (3, "fp32", "adamw", 3), {}),
        (2, (1, "fp32", "muon", 2), TORCH),
        (3, (2, "fp32", "adamw", 3), {**TENSOR, "tensor": 1}),
        (3, (2, "fp32", "adamw", 1), {"model": "decoder"}),
        (4, (2, "fp32", "muon", 3), {**TORCH, "model": "decoder"}),
        (5, (1, "fp32", "adamw", 3), {**TORCH, "model": "decoder"}),
        (5, (1, "fp32", "adamw", 2), {"model": "decoder"}),
    ]
    for before, move, parallel in moves:
        resumed = resume(init_distributed(), folder, *move, **parallel)
        assert not resumed["exact"]
        check_close(resumed, answers[before])


@pytest.mark.slow
def test_a_mesh_resumes_exactly_and_another_follows_it(tmp_path):
    saved = [
        [2, "fp32", "muon", TENSOR],
        [1, "fp32", "adamw", {**TENSOR, "replicate": 2}],
        [3, "fp32", "adamw", {**PIPELINE, "context": 2}],
        [1, "fp32", "muon", {**PIPELINE, "tensor": 2}],
    ]
    answers = on_ranks(4, "save", tmp_path, saved, timeout=900)
    for answer in answers:
        check_exact(answer)
    follow = [(number, 3, {**TENSOR, "tensor": tensor}) for number in (0, 1) for tensor in (1, 2)]
    follow += [(0, 1, {"model": "decoder"}), (0, 2, PIPELINE), (2, 1, TENSOR), (3, 3, SHARED_ROWS)]
    moves = [(*saved[number][:3], stage, parallel) for number, stage, parallel in follow]
    found = on_ranks(2, "resume", tmp_path, moves, timeout=900)
    for (number, *_), resumed in zip(follow, found, strict=True):
        assert not resumed["exact"]
        check_close(resumed, answers[number])


@pytest.fixture(scope="module")
def ranks():
    torch.set_num_threads(1)
    return init_distributed()


@pytest.fixture
def three_saved(ranks, tmp_path):
    """An engine of 6 steps with checkpoints after 2, 4 and 6, and the losses of all its steps."""
    engine = build(ranks, 1, "fp32", 8, steps=8)
    warnings = []
    saved = Checkpoints(engine, tmp_path / "checkpoints", warnings.append, keep_last=3)
    trail = []
    for step in (2, 4, 6):
        trail += advance(engine, step, 8)
        saved.save({"step": step}, wait=True)
    return saved, trail, warnings


def reopen(ranks, saved):
    warnings = []
    engine = build(ranks, 1, "fp32", 8, steps=8)
    return engine, Checkpoints(engine, saved.folder, warnings.append).load_newest(), warnings


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_newest_verified_checkpoint_is_taken(ranks, three_saved, damage):
    saved, trail, _ = three_saved
    newest = list_checkpoints(saved.folder)[-1][1]
    victim = newest / "engine" / "mp_rank_00_model_states.pt"
    content = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "truncate":
        victim.write_bytes(content[:-1])
    elif damage == "remove":
        victim.unlink()
    else:
        (newest / "manifest.json").write_text("{")
    engine, loaded, warnings = reopen(ranks, saved)
    assert loaded.step == 4 and loaded.state == {"step": 4}
    assert len(warnings) == 1 and "step-00000006" in warnings[0]
    assert advance(engine, 6, 8) == trail[4:6]


def test_leftovers_of_a_kill_are_neither_loaded_nor_kept(ranks, three_saved):
    saved, _, _ = three_saved
    leftover = saved.folder / "step-00000007.tmp"
    leftover.mkdir()
    (leftover / "manifest.json").write_text("{}")
    _, loaded, warnings = reopen(ranks, saved)
    assert loaded.step == 6 and not warnings
    saved.save({}, wait=True)
    assert not leftover.exists()


def test_rotation_keeps_the_last_and_every_multiple(ranks, tmp_path):
    engine = build(ranks, 1, "fp32", 8, steps=8)
    saved = Checkpoints(engine, tmp_path, warn=pytest.fail, keep_last=2, keep_every=4)
    for step in range(1, 8):
        advance(engine, step, 8)
        saved.save({}, wait=True)
    kept = list_checkpoints(tmp_path)
    assert [step for step, _ in kept] == [4, 6, 7]
    for _, path in kept:
        verify(path)


def test_no_checkpoint_is_no_error(ranks, tmp_path):
    _, loaded, warnings = reopen(ranks, Checkpoints(None, tmp_path / "none", print))
    assert loaded is None and not warnings
