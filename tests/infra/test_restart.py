"""When a job is started again and when it is not, with a launcher that plays prepared attempts."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.errors import HeadwaterError
from infra.job import JobRequest, JobResult, JobSpec, emit, finish, load_result, write_request
from infra.launch.restart import run_job
from infra.launch.spec import JobEnd, JobHandle, OnTick


@dataclass(frozen=True)
class Attempt:
    """One prepared attempt: the last step it reports, and how it ends. ``code`` 0 finishes with a result."""

    step: int | None
    reason: str = "rank 0 exit code 1"
    tail: str = "ZeroDivisionError: a defect"
    finishes: bool = False
    cancelled: bool = False
    queued: Sequence[str] = ()


@dataclass
class PreparedLauncher:
    request: JobRequest
    attempts: list[Attempt]
    alive: bool = False
    kind: str = "prepared"
    terminated: list[str] = field(default_factory=list)
    submitted: int = 0

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        self.submitted += 1
        handle = JobHandle(self.kind, str(self.submitted))
        handle.save(work_dir)
        return handle

    def wait(self, handle: JobHandle, on_tick: OnTick) -> JobEnd:
        attempt = self.attempts.pop(0)
        for reason in attempt.queued:
            time.sleep(0.6)
            on_tick(reason)
        if attempt.step is not None:
            emit(self.request, "progress", done=attempt.step, total=10)
        on_tick()
        self.alive = False
        if attempt.finishes:
            (self.request.data_dir).mkdir(parents=True, exist_ok=True)
            (self.request.data_dir / "model").write_text("weights")
            finish(self.request, {"data/model": True}, {})
        return JobEnd(0 if attempt.finishes else 1, attempt.reason, attempt.tail, attempt.cancelled)

    def terminate(self, handle: JobHandle) -> None:
        self.terminated.append(handle.id)

    def attach(self, handle: JobHandle) -> bool:
        return self.alive

    def dump_stacks(self, handle: JobHandle) -> None:
        raise AssertionError("nothing stalls here")


def launcher(folder: Path, attempts: Sequence[Attempt]) -> PreparedLauncher:
    request = JobRequest("fake", "0" * 12, {}, {}, folder / "dataset", folder / "work")
    request.work_dir.mkdir(exist_ok=True)
    write_request(request)
    return PreparedLauncher(request, list(attempts))


def run(prepared: PreparedLauncher, events: list[Mapping[str, Any]] | None = None, max_restarts: int = 2) -> JobResult:
    said = [] if events is None else events
    return run_job(JobSpec("fake", max_restarts=max_restarts), prepared, prepared.request.work_dir, said.append)


END = Attempt(10, finishes=True)


@pytest.mark.parametrize(
    ("attempts", "starts"),
    [
        ([END], 1),
        ([Attempt(3), END], 2),
        ([Attempt(None), END], 2),
        ([Attempt(1), Attempt(2), Attempt(3), Attempt(4), Attempt(5), END], 6),
        ([Attempt(5), Attempt(3), Attempt(4), END], 4),
        ([Attempt(4, "rank 0 exit code 75"), Attempt(4, "rank 0 exit code 75"), END], 3),
    ],
    ids=["at once", "crash", "crash before any step", "progress each time", "earlier steps", "preempted twice"],
)
def test_started_again_until_it_ends(tmp_path: Path, attempts: list[Attempt], starts: int) -> None:
    prepared = launcher(tmp_path, attempts)
    assert [output.path for output in run(prepared).outputs] == ["data/model"]
    assert prepared.submitted == starts


@pytest.mark.parametrize(
    ("attempts", "starts", "said"),
    [
        ([Attempt(4), Attempt(4)], 2, "failed twice at step 4"),
        ([Attempt(None), Attempt(None)], 2, "failed 2 times"),
        ([Attempt(5), Attempt(3), Attempt(4), Attempt(2)], 4, "failed 4 times"),
        ([Attempt(4, tail="torch.OutOfMemoryError: CUDA out of memory.")], 1, "ran out of memory"),
        ([Attempt(2, "rank 0 exit code 75")] * 4, 4, "failed 4 times"),
    ],
    ids=["same step", "no step", "never further", "memory", "preempted for ever"],
)
def test_given_up(tmp_path: Path, attempts: list[Attempt], starts: int, said: str) -> None:
    prepared = launcher(tmp_path, attempts)
    with pytest.raises(HeadwaterError, match=said) as caught:
        run(prepared)
    assert prepared.submitted == starts
    assert str(tmp_path / "work/logs") in str(caught.value)


def test_a_job_that_outlived_its_driver_is_waited_for(tmp_path: Path) -> None:
    prepared = launcher(tmp_path, [END])
    prepared.submit(JobSpec("fake"), prepared.request.work_dir)
    prepared.alive = True
    assert run(prepared).outputs
    assert prepared.submitted == 1


def test_an_exception_while_waiting_ends_the_job(tmp_path: Path) -> None:
    prepared = launcher(tmp_path, [Attempt(1)])

    def fail(event: Mapping[str, Any]) -> None:
        raise RuntimeError("the reporter broke")

    with pytest.raises(RuntimeError):
        run_job(JobSpec("fake"), prepared, prepared.request.work_dir, fail)
    assert prepared.terminated == ["1"]


def test_figures_that_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    request = launcher(tmp_path, []).request
    finish(request, {}, {"loss": math.nan, "steps": 3, "by": {"web": [1.0, -math.inf]}})
    result = load_result(request.work_dir)
    assert result is not None and result.stats == {"loss": None, "steps": 3, "by": {"web": [1.0, None]}}
    assert result.warnings == ["not finite, and so not on record: loss, by.web[1]"]


def test_torn_events_are_ignored_and_old_ones_not_repeated(tmp_path: Path) -> None:
    prepared = launcher(tmp_path, [END])
    (prepared.request.work_dir / "events.jsonl").write_text(
        '{"type": "progress", "done": 1, "total": 10}\n{"type": "pro'
    )
    events: list[Mapping[str, Any]] = []
    run(prepared, events)
    assert [event["done"] for event in events] == [10]


def test_a_job_somebody_cancelled_is_not_started_again(tmp_path: Path) -> None:
    prepared = launcher(tmp_path, [Attempt(3, "cancelled in the queue", cancelled=True), END])
    with pytest.raises(HeadwaterError, match=r"job 1 was cancelled \(cancelled in the queue\)"):
        run(prepared)
    assert prepared.submitted == 1
    assert not (prepared.request.work_dir / "job.json").exists()


def test_clocks_stand_still_while_a_job_is_queued(tmp_path: Path) -> None:
    prepared = launcher(tmp_path, [Attempt(3, queued=["waiting for nodes"] * 3, finishes=True)])
    said: list[Mapping[str, Any]] = []
    spec = JobSpec("fake", time_limit_s=1, stall_limit_s=1)
    assert run_job(spec, prepared, prepared.request.work_dir, said.append).outputs
    assert [event["message"] for event in said if event["type"] == "warning"] == ["waiting for nodes"]
    assert prepared.terminated == []


def test_a_job_left_at_another_cluster_is_not_doubled(tmp_path: Path) -> None:
    prepared = launcher(tmp_path, [END])
    prepared.submit(JobSpec("fake"), prepared.request.work_dir)
    other = launcher(tmp_path, [END])
    other.kind = "other"
    with pytest.raises(HeadwaterError, match=r"job 1 was started by launcher prepared .*execution\.launcher=prepared"):
        run(other)
    assert other.submitted == 0
