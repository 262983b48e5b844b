"""Process groups end with their driver, and a job comes to its result through whatever happens to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobRequest, JobResult, JobSpec, write_request
from infra.launch.local import LocalLauncher
from infra.launch.processes import end_processes_of
from infra.launch.restart import run_job
from infra.launch.spec import JobHandle
from infra.launch.torchrun import clear_stale_locks
from infra.store.files import read_json
from tests.support import REPOSITORY


def until(found: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def request_for(folder: Path, behaviour: Mapping[str, Any]) -> Path:
    work = folder / "work"
    work.mkdir(parents=True)
    write_request(JobRequest("fake", "0" * 12, dict(behaviour), {}, folder / "dataset", work))
    return work


def spec(**settings: Any) -> JobSpec:
    return JobSpec("tests.infra.fake_job", **{"ranks": 2, "env": {"PYTHONPATH": str(REPOSITORY)}, **settings})


def run(folder: Path, behaviour: Mapping[str, Any], **settings: Any) -> tuple[JobResult, list[Mapping[str, Any]]]:
    events: list[Mapping[str, Any]] = []
    launcher = LocalLauncher(grace_s=2)
    return run_job(spec(**settings), launcher, request_for(folder, behaviour), events.append), events


def steps(events: list[Mapping[str, Any]]) -> list[int]:
    return [event["done"] for event in events if event["type"] == "progress"]


# ---- the guard ------------------------------------------------------------------------------------------------------

STUBBORN = """
import subprocess, sys, pathlib
from tests.infra.fake_job import stubborn
import time
stubborn(pathlib.Path(sys.argv[1]))
time.sleep(600)
"""

PARENT = """
import os, subprocess, sys, time
guard = subprocess.Popen([sys.executable, "-m", "infra.launch.guard", "--ppid", str(os.getpid()), "--grace", "0.5",
                          "--", sys.executable, "-c", sys.argv[2], sys.argv[1]], start_new_session=True)
print(guard.pid, flush=True)
guard.wait()
"""


@pytest.mark.parametrize("victim", ["parent", "outer guard", "inner guard", "agent", "term"])
def test_whoever_is_killed_nothing_is_left(tmp_path: Path, victim: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), STUBBORN], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    outer = psutil.Process(int(parent.stdout.readline()))
    assert until(lambda: (tmp_path / "lingering").exists())
    (inner,) = outer.children()
    (agent,) = inner.children()
    family = [outer, inner, agent, *agent.children(recursive=True)]
    assert len(family) == 5
    if victim == "term":
        outer.terminate()
    else:
        {"parent": psutil.Process(parent.pid), "outer guard": outer, "inner guard": inner, "agent": agent}[
            victim
        ].kill()
    _, alive = psutil.wait_procs(family, timeout=6)
    assert not alive
    parent.kill()
    parent.wait()
    parent.stdout.close()


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_guard_hands_on_the_exit_code(code: str, expected: int) -> None:
    command = [sys.executable, "-m", "infra.launch.guard", "--ppid", str(os.getpid()), "--", sys.executable, "-c", code]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == expected


def test_a_guard_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    command = [sys.executable, "-m", "infra.launch.guard", "--ppid", "1", "--", sys.executable, "-c", code]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode != 0
    assert not (tmp_path / "ran").exists()


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_a_rank_that_is_done_does_not_wait_for_the_interpreters_end(tmp_path: Path) -> None:
    result, events = run(tmp_path, {"3": "abort at the end"})
    assert result.stats == {"steps": 10} and steps(events) == list(range(10))
    assert not [event for event in events if event["type"] not in ("progress", "phase")]
    logs = [path.read_text() for path in (tmp_path / "work" / "logs").rglob("*.log")]
    assert logs and not any("exitcode" in log or "Aborted" in log for log in logs)


def test_a_job_comes_to_its_result_and_is_not_run_twice(tmp_path: Path) -> None:
    result, events = run(tmp_path, {})
    assert result.stats == {"steps": 10}
    assert steps(events) == list(range(10))
    work = tmp_path / "work"
    assert list(work.glob("logs/try-1*/attempt_0/1/stderr.log"))
    again: list[Mapping[str, Any]] = []
    assert run_job(spec(), LocalLauncher(), work, again.append) == result
    assert again == []
    (tmp_path / "dataset/data/model.txt").write_text("changed")
    assert run_job(spec(), LocalLauncher(), work, again.append) == result
    assert (tmp_path / "dataset/data/model.txt").read_text() == "weights"


def test_a_killed_rank_costs_a_restart(tmp_path: Path) -> None:
    result, events = run(tmp_path, {"3": "kill once"})
    assert result.stats == {"steps": 10}
    assert steps(events) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    warnings = [event["message"] for event in events if event["type"] == "warning"]
    assert len(warnings) == 1
    assert "ended at step 3 (rank 0 was killed by signal 9)" in warnings[0]


@pytest.mark.slow
def test_a_stalled_job_shows_its_stacks_and_starts_again(tmp_path: Path) -> None:
    result, events = run(tmp_path, {"5": "stall once"}, stall_limit_s=3)
    assert result.stats == {"steps": 10}
    assert any("no sign of life for 3 s" in str(event.get("message")) for event in events)
    (log,) = (tmp_path / "work/logs").glob("try-1_*/attempt_0/0/stderr.log")
    assert "fake_job.py" in log.read_text()


def test_a_refusal_reaches_the_user_word_for_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the batch is larger than the data\. Lower batch\."):
        run(tmp_path, {"refuse": True})


@pytest.mark.slow
def test_a_crash_loop_and_a_lack_of_memory_name_their_cause(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match=r"failed twice at step 4 .*ZeroDivisionError: a defect in the model"):
        run(tmp_path / "loop", {"4": "crash"})
    with pytest.raises(HeadwaterError, match="ran out of memory: MemoryError: cannot hold"):
        run(tmp_path / "memory", {"2": "memory"})
    assert len(list((tmp_path / "memory/work/logs").glob("try-*.log"))) == 1


def test_an_interrupted_driver_leaves_no_rank(tmp_path: Path) -> None:
    work = request_for(tmp_path, {"1": "linger"})

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["done"] == 1:
            assert until(lambda: (work / "lingering").exists())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(spec(), LocalLauncher(grace_s=1), work, interrupt)
    for number in range(2):
        assert not psutil.pid_exists(int((work / f"child-{number}").read_text()))


DRIVER = """
import sys
from pathlib import Path
from infra.launch.local import LocalLauncher
from infra.launch.restart import run_job
from tests.infra.test_launch import spec
run_job(spec(), LocalLauncher(grace_s=1), Path(sys.argv[1]), print)
"""


@pytest.mark.parametrize("with_guards", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_driver_leaves_no_rank_and_a_later_run_goes_on(tmp_path: Path, with_guards: bool) -> None:
    work = request_for(tmp_path, {"4": "linger", "5": "kill once"})
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(work)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert until(lambda: (work / "lingering").exists())
    family = psutil.Process(driver.pid).children(recursive=True)
    victims = family[:2] if with_guards else []
    for process in (psutil.Process(driver.pid), *victims):
        process.kill()
    driver.wait()
    if not with_guards:
        _, alive = psutil.wait_procs(family, timeout=6)
        assert not alive
    (work / "request.json").unlink()
    write_request(JobRequest("fake", "0" * 12, {}, {}, tmp_path / "dataset", work))
    events: list[Mapping[str, Any]] = []
    result = run_job(spec(), LocalLauncher(), work, events.append)
    assert result.stats == {"steps": 10}
    assert steps(events) == [4, 5, 6, 7, 8, 9]
    _, alive = psutil.wait_procs(family, timeout=1)
    assert not alive


def test_a_living_job_is_attached_to_and_a_reused_pid_is_not(tmp_path: Path) -> None:
    work = request_for(tmp_path, {"3": "linger"})
    launcher = LocalLauncher(grace_s=0.2)
    handle = launcher.submit(spec(), work)
    assert JobHandle(**read_json(work / "job.json")) == handle
    other = LocalLauncher()
    assert other.attach(handle)
    assert until(lambda: (work / "lingering").exists())
    reused = JobHandle(handle.kind, handle.id, handle.host, {**handle.detail, "started": 1.0})
    assert not other.attach(reused)
    other.terminate(handle)
    assert not launcher.attach(handle)


def test_more_nodes_than_this_machine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wants 2 nodes"):
        LocalLauncher().submit(spec(nodes=2), tmp_path)


def test_locks_of_dead_compilations_are_cleared_and_living_ones_kept(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    stale, held = tmp_path / "one" / "lock", tmp_path / "two" / "lock"
    stale.touch()
    with held.open("w"):
        clear_stale_locks(tmp_path)
        assert not stale.exists()
        assert held.exists()


def test_processes_of_another_job_are_left_alone(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "HEADWATER_JOB": str(tmp_path / "b")},
    )
    try:
        end_processes_of(tmp_path / "a")
        assert process.poll() is None
        end_processes_of(tmp_path / "b")
        assert process.wait(5) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
