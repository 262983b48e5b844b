"""The supervised stages in training's loop: bad batches are gone around, and whatever stops a run changes nothing."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignment.best import Figure
from alignment.health import CollapseRules, CollapseWatch
from alignment.job import ModelJob, TuningConfig
from alignment.loop import Plan, optimise, tune
from alignment.order import Order, step_indices
from infra.job import JobRequest
from infra.job_main import Preempted
from training.create_engine import create_engine
from training.engine import Engine
from training.job import StopSignal
from training.loader import StepData
from training.loop import Batches, TrainingTask, TrainStep
from training.ranks import Ranks, init_distributed
from training.recorder import IterationResult

NUMBER, BATCH, STEPS = 120, 4, 30


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return init_distributed()


class Run:
    """A line fitted to points, some of which spoil the loss when they are first met."""

    def __init__(self, folder: Path, ranks: Ranks, harms: dict[int, float], **changes: Any) -> None:
        self.harms, self.taken, self.stop_at = harms, list[np.ndarray](), 0
        settings = {
            "checkpoint_every": 5,
            "validate_every": 4,
            "faults": {"window": 32},
            "dtype": "fp32",
            "micro_batch": BATCH,
            "lr": 1e-2,
        }
        config = TuningConfig.model_validate(settings | {"batch_size": BATCH} | changes)
        request = JobRequest("dpo", "0" * 12, {}, {}, folder / "dataset", folder / "work")
        for path in (request.data_dir, request.work_dir):
            path.mkdir(parents=True, exist_ok=True)
        self.job: ModelJob[Any] = ModelJob(request, config, ranks, StopSignal())
        torch.manual_seed(0)
        optimizer, parallel = config.optimizer(STEPS), config.parallel()
        self.engine: Engine = create_engine(nn.Linear(1, 1), optimizer, parallel, total_steps=STEPS, ranks=ranks)

    def go(self) -> None:
        plan: Plan[np.ndarray] = Plan(
            Order(NUMBER, BATCH, 1, 0),
            np.full(NUMBER, 7),
            lambda part: part.indices,
            self.losses,
            len,
            lambda: {"distance": float(self.weights.abs().sum())},
            Figure("distance", lower_is_better=True),
            lambda index: [f"example-{index}"],
        )
        with self.job.stop:
            optimise(self.job, self.engine, plan)

    def losses(self, model: nn.Module, indices: np.ndarray) -> dict[str, Tensor]:
        self.taken.append(indices)
        if len(self.taken) == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        points = torch.from_numpy(indices).float().unsqueeze(1) / NUMBER
        harm = math.prod(self.harms.pop(int(index), 1.0) for index in indices)
        return {"loss": (model(points) - 3 * points).square().sum() * harm}

    @property
    def weights(self) -> Tensor:
        return torch.cat([weight.detach().flatten() for weight in self.engine.model.parameters()])

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.job.request.work_dir / "events.jsonl").read_text().splitlines())
        return [line for line in lines if line["type"] == kind]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.job.request.data_dir / "metrics.jsonl").read_text().splitlines()]


def indices(step: int) -> np.ndarray:
    return step_indices(NUMBER, BATCH, 0, step)


def test_a_spike_is_skipped_and_told(ranks: Ranks, tmp_path: Path) -> None:
    run = Run(tmp_path, ranks, {int(indices(20)[1]): 1e6})
    run.go()
    assert run.job.stats["held_steps"] == 1 and run.job.stats["rollbacks"] == 0
    assert run.job.warnings[0].startswith("1 of 30 updates were not applied")
    (told,) = [event for event in run.events("warning") if "step 21 was not applied" in event["message"]]
    assert "after a mean of" in told["message"]
    assert told["message"].endswith("its batch held " + ", ".join(sorted(f"example-{index}" for index in indices(20))))
    assert [line["step"] for line in run.lines() if "held" in line] == [21]
    assert {line["tokens"] for line in run.lines() if "loss" in line} == {7 * BATCH}
    board = tmp_path / "dataset/data/tensorboard"
    assert run.job.outputs == {"data/metrics.jsonl": False} | {
        f"data/tensorboard/{p.name}": False for p in board.iterdir()
    }


def test_a_bad_stretch_is_gone_around(ranks: Ranks, tmp_path: Path) -> None:
    run = Run(tmp_path, ranks, {int(indices(step)[0]): math.nan for step in (12, 13, 14)})
    run.go()
    assert run.job.stats["rollbacks"] == 1 and run.job.stats["steps"] == run.engine.step == STEPS
    # Steps 1 to 15, back to 10, and on with the data of the 16th: five whole steps more than the epoch has.
    expected = [indices(step) for step in [*range(15), *range(15, 35)]]
    assert [list(each) for each in run.taken] == [list(each) for each in expected]
    assert any("back to the checkpoint of step 10 from step 15" in event["message"] for event in run.events("warning"))


@pytest.mark.parametrize("stops", [(11, 1), (14,), (16, 1, 1)])
def test_signals_around_a_bad_stretch_change_nothing(ranks: Ranks, tmp_path: Path, stops: tuple[int, ...]) -> None:
    """``stops``: after how many steps of each attempt the signal comes."""
    harms = {int(indices(step)[0]): math.nan for step in (12, 13, 14)}
    straight = Run(tmp_path / "straight", ranks, dict(harms), publish="best")
    straight.go()
    for stop_at in stops:
        stopped = Run(tmp_path / "stopped", ranks, harms, publish="best")
        stopped.stop_at = stop_at
        with pytest.raises(Preempted):
            stopped.go()
    resumed = Run(tmp_path / "stopped", ranks, harms, publish="best")
    resumed.go()
    assert torch.equal(resumed.weights, straight.weights)
    assert straight.job.stats["best"]["distance"] == straight.job.stats["distance"], "not of the published weights"
    for name in ("best", "published_step", "distance", "rollbacks", "held_steps"):
        assert resumed.job.stats[name] == straight.job.stats[name], name


def test_a_collapsed_policy_goes_back_to_its_last_healthy_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    run = Run(tmp_path, ranks, {})
    watch, seen = CollapseWatch(CollapseRules(patience=3)), dict[int, Tensor]()

    def iterate(step: TrainStep, data: StepData[np.ndarray]) -> IterationResult:
        result = step(data.batches, run.losses, len)
        seen[run.engine.step] = run.weights.clone()
        far = 9.0 if run.engine.step > 12 else 0.1
        return IterationResult(result, 1.0, {"reward": 0.5, "finished": 1.0, "kl_per_token": far})

    batches = Batches(lambda number: [indices(number)], BATCH)
    task = TrainingTask(batches, iterate, lambda: {"distance": float(run.weights.abs().sum())}, 4)
    task = replace(task, collapsed=watch.see, remembers={"watch": watch})
    with run.job.stop:
        tune(run.job, run.engine, task, Figure("distance"))
    assert max(seen) == 15 and run.engine.step == 10 == run.job.stats["ended_at"]
    assert torch.equal(run.weights, seen[10]) and watch.rounds == 10
    assert run.job.stats["distance"] == pytest.approx(float(seen[10].abs().sum()))
    assert "9.00 nats a token" in run.job.stats["collapsed"]
    assert any("published is the model of step 10" in sentence for sentence in run.job.warnings)


def test_one_sick_round_is_noise_and_a_falling_reward_is_not() -> None:
    def after(rewards: list[float], ends: float = 1.0) -> bool:
        watch = CollapseWatch(CollapseRules(reward_drop=0.5))
        seen = [watch.see({"reward": value, "finished": ends if n else 1.0}) for n, value in enumerate(rewards)]
        return any(seen)

    assert not after([1, 1, -1, 1, 1]) and after([1] * 5 + [-1] * 12)
    assert after([1] * 5, ends=0.3) and not after([1] * 5, ends=0.6)
