"""Which runs are lost: their worker is gone, and so is their process, or it never came to be."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psutil
import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling, Pending, Running

from flows.operate.lost_runs import LABEL, Claim, is_lost
from flows.operate.prefect_internals import STARTED_BY_WORKER

ELSEWHERE = "other-host/0123"


def run_of(state: State[Any], claim: Claim | None, pid: int | None = None, **changes: Any) -> FlowRun:
    labels: dict[str, Any] = dict(claim.labels) if claim else {}
    return FlowRun(flow_id=uuid4(), state=state, labels=labels, infrastructure_pid=str(pid) if pid else None, **changes)


def gone(machine: str | None = None) -> Claim:
    """A claim of a worker that has ended: its number belongs to another process by now, or to none."""
    mine = Claim.mine("cpu-host")
    return Claim(mine.worker, machine or mine.machine, mine.pid, mine.started - 1000.0)


def test_a_claim_is_read_as_it_was_written() -> None:
    claim = Claim.mine("cpu-host")
    assert Claim.of(run_of(Pending(), claim)) == claim
    assert claim.pid == os.getpid()
    for label in ("", "cpu-host", "a b c d", "a b 1 2 3"):
        assert Claim.of(FlowRun(flow_id=uuid4(), labels={LABEL: label})) is None


@pytest.mark.parametrize("state", [Pending(), Running(), Cancelling()])
@pytest.mark.parametrize("kind", ["process", "docker"])
def test_nothing_is_lost_while_its_worker_lives(state: State[Any], kind: str) -> None:
    assert not is_lost(run_of(state, Claim.mine("cpu-host")), kind, silent=True)
    assert not is_lost(run_of(state, None), kind, silent=True), "another's worker took it"


@pytest.mark.parametrize("state", [Pending(), Running(), Cancelling()])
def test_a_run_of_this_machine_is_lost_with_its_worker_and_its_process(state: State[Any]) -> None:
    assert is_lost(run_of(state, gone()), "process", silent=False), "it was being submitted"
    assert is_lost(run_of(state, gone(), pid=os.getpid()), "process", silent=False), "the number is another's"


@pytest.fixture
def orphan() -> Iterator[tuple[FlowRun, int]]:
    """A run whose process outlived its worker."""
    run = run_of(Running(), gone())
    code = "import time; print('up', flush=True); time.sleep(60)"
    environment = {**os.environ, STARTED_BY_WORKER: str(run.id)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline()
    yield run, process.pid
    process.kill()
    process.communicate()


def test_a_process_that_outlived_its_worker_is_left_alone(orphan: tuple[FlowRun, int]) -> None:
    run, pid = orphan
    noted = run.model_copy(update={"infrastructure_pid": str(pid)})
    assert not is_lost(noted, "process", silent=False)
    assert not is_lost(run, "process", silent=False), "its worker died before it noted the number"
    psutil.Process(pid).kill()
    psutil.wait_procs([psutil.Process(pid)], timeout=5)
    assert is_lost(noted, "process", silent=False)


def test_a_container_is_its_own_and_lost_only_if_there_is_none() -> None:
    assert is_lost(run_of(Pending(), gone()), "docker", silent=False)
    assert not is_lost(run_of(Running(), gone(), pid=7), "docker", silent=False)


def test_of_another_machine_only_what_was_being_submitted_by_a_silent_worker() -> None:
    assert is_lost(run_of(Pending(), gone(ELSEWHERE)), "process", silent=True)
    assert not is_lost(run_of(Pending(), gone(ELSEWHERE)), "process", silent=False)
    assert not is_lost(run_of(Pending(), gone(ELSEWHERE), pid=7), "process", silent=True)
    assert not is_lost(run_of(Running(), gone(ELSEWHERE)), "process", silent=True), "its heartbeats are watched"
