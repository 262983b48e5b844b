"""Services of ``headwater up``: one that dies is started again, one that always dies is an error. And what died with it."""

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import httpx
import psutil
import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Pending, Running

from flows.operate import services
from flows.operate.lost_runs import ATTEMPTS, after_loss
from flows.operate.prefect_internals import polled_without_end
from flows.operate.services import RESTARTS, Service, service
from infra.errors import HeadwaterError
from infra.launch.guard import descendants


def await_end(started: Service) -> None:
    deadline = time.monotonic() + 20
    while not started.ended():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_that_always_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    said: list[str] = []
    with service("server", ["-c", "raise SystemExit('the database is locked')"], tmp_path, 1.0) as started:
        with pytest.raises(HeadwaterError, match="the Prefect server ended: the database is locked"):
            for _ in range(RESTARTS + 1):
                await_end(started)
                started.restart(said.append)
        assert len(said) == RESTARTS
        assert started.log.read_text().count("locked") == RESTARTS + 1


def test_deaths_of_long_ago_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "WINDOW_S", 0.0)
    with service("server", ["-c", ""], tmp_path, 1.0) as started:
        for _ in range(RESTARTS + 2):
            await_end(started)
            started.restart(lambda text: None)


def test_what_a_service_started_ends_with_it(tmp_path: Path) -> None:
    body = f"import subprocess, time; subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(99)'],"
    body += " start_new_session=True); print('ready', flush=True); time.sleep(99)"
    with service("workers", ["-c", body], tmp_path, 1.0) as started:
        deadline = time.monotonic() + 20
        while "ready" not in started.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = [psutil.Process(pid) for pid in descendants(started.guard.pid)]
        (killed,) = [process for process in family if body in process.cmdline() and "--grace" not in process.cmdline()]
        killed.kill()
        await_end(started)
        assert len(family) == 3  # the inner guard, the command, what it started
        assert not any(process.is_running() for process in family)


def test_a_worker_goes_on_asking_what_is_to_be_cancelled() -> None:
    asked: list[int] = []

    async def ask() -> None:
        asked.append(len(asked))
        if len(asked) < 12:
            raise httpx.ConnectError("no route to the server")
        if len(asked) == 15:
            raise KeyError("enough")

    with pytest.raises(KeyError):
        anyio.run(partial(polled_without_end, workload=ask, interval=0.001, jitter_range=0.3))
    assert len(asked) == 15


@pytest.mark.parametrize(
    ("run", "state"),
    [
        (FlowRun(flow_id=uuid4(), state=Pending()), "AwaitingRetry"),
        (FlowRun(flow_id=uuid4(), state=Running(), run_count=1), "AwaitingRetry"),
        (FlowRun(flow_id=uuid4(), state=Running(), run_count=ATTEMPTS), "Crashed"),
        (FlowRun(flow_id=uuid4(), state=Cancelling(), run_count=1), "Cancelled"),
    ],
)
def test_a_lost_run_is_run_again_unless_it_was_cancelled_or_kills_its_workers(run: FlowRun, state: str) -> None:
    assert after_loss(run).name == state
