"""Harmful steps are skipped without a trace in the weights; a run that got lost goes back and around the data."""

import math
import signal
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from infra.errors import HeadwaterError
from infra.job_main import Preempted
from training.checkpoint import Checkpoints
from training.create_engine import create_engine
from training.faults import FaultConfig, SpikeGuard
from training.loader import MicroBatch, StepData
from training.loop import Loop, TrainingTask
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import init_distributed
from training.recorder import IterationResult


def primed(losses, **settings):
    guard = SpikeGuard(FaultConfig(window=32, **settings))
    for loss in losses:
        guard.record(loss, 1.0, skipped=False)
    return guard


def test_a_spike_is_six_deviations_from_the_recent_mean():
    guard = primed([4.0, 4.2, 3.8, 4.1, 3.9, 4.0] * 3)
    assert guard.veto(4.5, 1.0) is None
    assert "loss is 9" in guard.veto(9.0, 1.0)
    assert "gradient norm" in guard.veto(4.0, 50.0)


def test_nothing_is_a_spike_before_there_is_a_past():
    assert primed([4.0] * 15).veto(100.0, 100.0) is None and primed([4.0] * 16).veto(100.0, 100.0) is not None
    with pytest.raises(ValidationError):
        FaultConfig(window=16)
    assert primed([4.0] * 16, sigmas=0).veto(100.0, 100.0) is None


def test_a_steady_past_does_not_make_an_ordinary_batch_a_spike():
    assert primed([4.0] * 16).veto(4.2, 1.05) is None
    guard = SpikeGuard(FaultConfig())
    for norm in [0.695, 0.745, 0.795] * 40:  # .745 ± .04: 1.21 is eleven deviations away
        guard.record(2.5, norm, skipped=False)
    assert guard.veto(2.6, 1.21) is None and guard.veto(3.0, 0.745) is None
    assert "gradient norm is 1.6" in guard.veto(2.5, 1.6) and "loss is 3.2" in guard.veto(3.2, 0.745)
    strict = SpikeGuard(FaultConfig(norm_factor=1.1))
    strict.restore(guard.state())
    assert strict.veto(2.5, 1.21) is not None


def test_skipped_steps_leave_no_trace_in_the_past_and_survive_a_restart():
    guard = primed([4.0] * 16, patience=2)
    guard.record(1000.0, 1.0, skipped=True)
    assert guard.veto(9.0, 1.0) is not None and not guard.exhausted
    other = SpikeGuard(guard.config)
    other.restore(guard.state())
    assert other.veto(9.0, 1.0) == guard.veto(9.0, 1.0)
    guard.record(1000.0, 1.0, skipped=True)
    assert guard.exhausted and not other.exhausted


def test_a_rise_is_a_new_level_only_where_the_checkpoint_meets_it_at_once():
    def returned(applied, height=9.0):
        guard = primed([4.0] * 16, patience=2)
        guard.roll_back(guard.state())
        for _ in range(applied):
            guard.record(4.0, 1.0, skipped=False)
        for _ in range(2):
            guard.record(height, 1.0, skipped=True)
        assert guard.exhausted
        return guard.new_level

    assert returned(0) and returned(1)
    assert not returned(2), "updates were made before: the weights may be what is bad"
    assert not returned(0, math.nan) and not returned(0, math.inf)
    assert not returned(0, height=4.0), "skipped for another reason than its height"


def test_an_accepted_level_is_the_past_at_another_height():
    guard = primed([3.9, 4.1] * 8)
    for _ in range(3):
        guard.record(8.0, 3.0, skipped=True)
    said = guard.accept()
    assert "loss stays at 8 after a mean of 4" in said and "gradient norm at 3 after 1" in said
    assert guard.veto(8.4, 3.2) is None and "loss" in guard.veto(12.0, 3.0) and "norm" in guard.veto(8.0, 9.0)
    assert not guard.skipped


def test_another_phase_of_the_curriculum_starts_a_past_of_its_own():
    guard = primed([4.0] * 16)
    guard.enter(0)
    assert guard.veto(9.0, 1.0)
    guard.enter(1)
    assert guard.veto(9.0, 1.0) is None
    for _ in range(16):
        guard.record(9.0, 1.0, skipped=False)
    guard.enter(1)
    assert guard.veto(9.2, 1.0) is None and guard.veto(20.0, 1.0)


def test_rollbacks_are_forgiven_after_a_window_of_applied_steps():
    guard = primed([4.0] * 16)
    guard.roll_back(guard.state())
    for _ in range(31):
        guard.record(4.0, 1.0, skipped=False)
    assert guard.rollbacks == 1
    guard.record(4.0, 1.0, skipped=False)
    assert guard.rollbacks == 0


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.weight.weight)

    def forward(self, inputs):
        return self.weight(inputs)


def squares(model, batch):
    return {"loss": (model(batch.input_ids.float()) - batch.targets).square().sum()}


class ScriptedLoader:
    """Sequence n has target 1, except where the script (numbers, or a function of n) says otherwise."""

    def __init__(self, script):
        self.script = script if callable(script) else lambda n: script.get(n, 1.0)
        self.batch, self.wait_seconds = 1, 0.0

    def steps(self, consumed):
        while True:
            target = torch.tensor([[self.script(consumed)]])
            yield StepData(consumed, [MicroBatch(torch.ones(1, 1), target, torch.ones(1, 1), None, 1.0)])
            consumed += 1


@pytest.fixture(scope="module")
def ranks():
    return init_distributed()


class Heard(list):
    """What a loop told, in order."""

    def step(self, done, outcome, seconds):
        pass

    def skipped(self, result, names):
        self.append(("skipped", result.step, *names))

    def warning(self, message):
        self.append(("warning", message))

    def went_back(self, done):
        self.append(("back", done))

    def measuring(self):
        pass

    def measured(self, done, figures):
        pass


def build(ranks, folder, script, steps=30, stage=1, **faults):
    engine = create_engine(
        Line(),
        OptimizerConfig(lr=0.01, weight_decay=0.0),
        ParallelConfig(zero_stage=stage, dtype="fp32", micro_batch=1),
        total_steps=steps,
        ranks=ranks,
    )
    heard = Heard()
    task = TrainingTask(
        ScriptedLoader(script),
        lambda step, data: IterationResult(step(data.batches, squares, lambda batch: batch.tokens), 1.0),
        evaluate=dict,
        names=lambda data: [data.consumed],
    )
    checkpoints = Checkpoints(engine, folder, heard.warning)
    return Loop(engine, task, SpikeGuard(FaultConfig(window=32, **faults)), checkpoints, heard, 5), heard


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e4])
def test_a_bad_batch_is_skipped_reported_and_stepped_over(ranks, tmp_path, bad):
    loop, heard = build(ranks, tmp_path, {18: bad})
    before = []
    loop.recorder.step = lambda done, outcome, seconds: before.append(loop.engine.model.weight.weight.item())
    loop.run()
    assert heard == [("skipped", 18, 18)]
    assert before[18] == before[17] and before[19] > before[18]
    assert loop.progress.skipped == [18] and loop.engine.skipped_steps == 1 and loop.engine.step == 30


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_repeated_skipped_steps_roll_back_and_go_around_the_data(ranks, tmp_path, stage):
    script = dict.fromkeys((12, 13, 14), math.nan)
    loop, heard = build(ranks, tmp_path, script, stage=stage, patience=3)
    loop.run()
    assert [entry for entry in heard if entry[0] == "skipped"] == [("skipped", step, step) for step in (12, 13, 14)]
    assert any("back to the checkpoint of step 10 from step 15" in entry[1] for entry in heard if entry[0] == "warning")
    assert ("back", 10) in heard and loop.progress.jumps == [[0, 0], [10, 15]]
    assert [loop.progress.consumed(step) for step in (9, 10, 29)] == [9, 15, 34]
    assert loop.engine.step == 30 and loop.progress.skipped == [] and loop.progress.rollbacks == 1
    clean, _ = build(ranks, tmp_path / "clean", {}, stage=stage)
    clean.run()  # all good batches are alike, so going back must end where nothing ever happened
    assert loop.engine.weight("weight.weight").item() == clean.engine.weight("weight.weight").item()


def test_a_rollback_goes_back_to_before_the_trouble(ranks, tmp_path):
    """A checkpoint is due at step 15, between the skipped steps."""
    loop, heard = build(ranks, tmp_path, dict.fromkeys((13, 14, 15), math.nan), patience=3)
    loop.run()
    assert any("back to the checkpoint of step 10 from step 16" in entry[1] for entry in heard if entry[0] == "warning")
    assert loop.progress.jumps == [[0, 0], [10, 16]]


def test_a_run_that_never_recovers_is_given_up(ranks, tmp_path):
    loop, _ = build(ranks, tmp_path, dict.fromkeys(range(12, 99), math.nan), patience=2, rollbacks=1)
    with pytest.raises(HeadwaterError, match="does not recover"):
        loop.run()


def test_without_a_checkpoint_to_go_back_to(ranks, tmp_path):
    loop, _ = build(ranks, tmp_path, dict.fromkeys(range(99), math.nan), patience=2)
    with pytest.raises(HeadwaterError, match="no checkpoint to go back to"):
        loop.run()


def warnings(heard):
    return [entry[1] for entry in heard if entry[0] == "warning"]


def rise(n):
    """Harder data from sequence 22 on, and one spike above it."""
    return 1e4 if n == 38 else 3.0 if n >= 22 else 1.0


def test_a_rise_that_stays_is_accepted_after_one_rollback(ranks, tmp_path):
    loop, heard = build(ranks, tmp_path, rise, steps=45)
    loop.run()
    assert [entry[1:] for entry in heard if entry[0] == "skipped"] == [
        *((22, 22), (23, 23), (24, 24)),  # the rise
        *((20, 25), (21, 26), (22, 27)),  # again, at once behind the rollback
        (33, 38),  # the spike above it
    ]
    back, level = warnings(heard)
    assert "back to the checkpoint of step 20 from step 25" in back
    assert "a new level at step 23" in level and "the loss stays at" in level
    assert loop.progress.skipped == [20, 21, 22, 33] and loop.progress.rollbacks == 1
    assert loop.engine.step == 45


@pytest.mark.parametrize("signalled", [23, 24, 26, 31, 41])
def test_a_signal_around_a_rise_changes_nothing(ranks, tmp_path, signalled):
    """``signalled``: the number of steps taken, repeated ones too, when the signal comes."""
    straight, _ = build(ranks, tmp_path / "straight", rise, steps=45)
    straight.run()
    loop, _ = build(ranks, tmp_path / "interrupted", rise, steps=45)
    seen = []

    def step(done, outcome, seconds):
        seen.append(done)
        if len(seen) == signalled:
            signal.raise_signal(signal.SIGTERM)

    loop.recorder.step = step
    with loop.stop, pytest.raises(Preempted):
        loop.run()
    resumed, _ = build(ranks, tmp_path / "interrupted", rise, steps=45)
    assert resumed.resume()
    resumed.run()
    assert torch.equal(resumed.engine.model.weight.weight, straight.engine.model.weight.weight)
    assert resumed.progress == straight.progress and resumed.guard.state() == straight.guard.state()


def test_a_rise_without_end_is_given_up(ranks, tmp_path):
    loop, heard = build(ranks, tmp_path, lambda n: 3.0 ** max(0, n - 21), steps=60)
    with pytest.raises(HeadwaterError, match="does not recover.* after 2 rollbacks"):
        loop.run()
    assert sum("a new level" in message for message in warnings(heard)) == 2  # once a rollback


def test_a_rise_before_the_first_checkpoint_is_accepted(ranks, tmp_path):
    loop, heard = build(ranks, tmp_path, rise, steps=30)
    loop.checkpoint_every = 100
    loop.run()
    assert loop.progress.skipped == [22, 23, 24] and loop.progress.rollbacks == 0
    assert ["a new level at step 25" in message for message in warnings(heard)] == [True]


def test_a_switch_of_phase_is_no_rise(ranks, tmp_path):
    loop, heard = build(ranks, tmp_path, rise, steps=45)
    loop.task = replace(loop.task, phase=lambda position: int(position >= 22))
    loop.run()
    assert heard == [("skipped", 38, 38)]


def test_a_signal_leaves_a_checkpoint_that_the_next_run_takes_up(ranks, tmp_path):
    expected, _ = build(ranks, tmp_path / "straight", {7: math.nan})
    expected.run()
    loop, _ = build(ranks, tmp_path / "interrupted", {7: math.nan})
    loop.recorder.step = lambda done, outcome, seconds: signal.raise_signal(signal.SIGTERM) if done == 13 else None
    with loop.stop, pytest.raises(Preempted):
        loop.run()
    resumed, _ = build(ranks, tmp_path / "interrupted", {7: math.nan})
    assert resumed.resume() and resumed.engine.step == 13 and resumed.progress.skipped == [7]
    resumed.run()
    assert torch.equal(resumed.engine.model.weight.weight, expected.engine.model.weight.weight)
    assert resumed.progress == expected.progress
