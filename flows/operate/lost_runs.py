"""Flow runs that died with their worker, handed back to the server for the next worker.

A process that is killed tells nobody. On the server its flow run goes on for ever, holds a place in its pool, and nothing
else begins there. So a worker writes its claim on a run before it takes it: its name, its machine, its process. Every
worker, when it starts and every ``LOOK_S``, looks at the runs of its pools that have begun:

* claimed by a process of this machine that is gone: the run is lost if its own process (a container's: one that was
  started) is not there either. It is scheduled once more, as the UI's *Retry* does it;
* claimed on another machine: lost if it was being submitted, for ``PATIENCE_S``, by a worker that the server has not heard
  of since. A run that had begun there has heartbeats, which an automation watches (``flows.operate.automations``).

A run that is handed back finds what it finished in the store, and a child it waited for by that child's key. One that was
being cancelled is cancelled; one that was tried ``ATTEMPTS`` times is Crashed.
"""

import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Crashed

from flows.operate.prefect_internals import STARTED_BY_WORKER
from infra.store.lease import is_alive

ATTEMPTS = 5
LOOK_S = 60.0
PATIENCE_S = 120.0
"""A worker tells the server of its life every 30 s, and is taken for gone after three that did not come."""
BEGUN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
LABEL = "headwater.claim"
MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True)
class Claim:
    """Which worker took a run. Names of machines need not be unique, so what identifies the system stands with it."""

    worker: str
    machine: str
    pid: int
    started: float

    @classmethod
    def mine(cls, worker: str) -> "Claim":
        return cls(worker, _machine(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def of(cls, run: FlowRun) -> "Claim | None":
        try:
            worker, machine, pid, started = str(run.labels.get(LABEL, "")).split()
            return cls(worker, machine, int(pid), float(started))
        except ValueError:  # taken by a worker that is not ours
            return None

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: f"{self.worker} {self.machine} {self.pid} {self.started}"}


def _machine() -> str:
    try:
        system = MACHINE_ID.read_text().strip()
    except OSError:
        system = ""
    return f"{socket.gethostname()}/{system}"


def hand_back(pools: Collection[str]) -> list[str]:
    """Give every lost run of these pools a state it can go on from; their names.

    Raises httpx.HTTPError soon if the server is away: who asks has to look after the server too.
    """
    begun = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BEGUN)))
    named = WorkPoolFilter(name=WorkPoolFilterName(any_=list(pools)))
    handed = []
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}), get_client(sync_client=True) as client:
        kinds = {pool: client.read_work_pool(pool).type for pool in pools}
        for run in client.read_flow_runs(flow_run_filter=begun, work_pool_filter=named):
            silent = _silent(client, run)
            if is_lost(run, kinds.get(run.work_pool_name or "", ""), silent=silent):
                client.set_flow_run_state(run.id, after_loss(run), force=True)
                handed.append(run.name)
    return handed


def is_lost(run: FlowRun, kind: str, *, silent: bool) -> bool:
    """Whether nobody looks after a run that has begun; ``silent``: the server no longer hears of the worker it is claimed by."""
    claim = Claim.of(run)
    if claim is None:
        return False
    if claim.machine == _machine():
        if is_alive(claim.pid, claim.started):
            return False
        return run.infrastructure_pid is None if kind != "process" else not _lives(run)
    submitting = run.state is not None and run.state.is_pending() and run.infrastructure_pid is None
    return submitting and silent


def after_loss(run: FlowRun) -> State[None]:
    """The state of a run whose process is gone."""
    if run.state is not None and run.state.is_cancelling():
        return Cancelled(message="Its process ended with its worker.")
    if run.run_count >= ATTEMPTS:
        return Crashed(message=f"Its worker died in each of {run.run_count} attempts. Finished work is kept.")
    return AwaitingRetry(message="Its worker died: run again, finished work is kept.")


def _silent(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Whether a run has been waiting for some time on a worker that is gone, as far as the server knows."""
    claim = Claim.of(run)
    if claim is None or claim.machine == _machine() or run.state is None or run.work_pool_name is None:
        return False
    if (datetime.now(UTC) - run.state.timestamp).total_seconds() < PATIENCE_S:
        return False
    response = client.request(
        "POST",
        "/work_pools/{work_pool_name}/workers/filter",
        path_params={"work_pool_name": run.work_pool_name},
        json={},
    )
    online = {worker["name"] for worker in response.json() if worker.get("status") == "ONLINE"}
    return claim.worker not in online


def _lives(run: FlowRun) -> bool:
    """Whether its process is there. One of a process pool has the run's id in its environment, and is noted with its number,
    unless the worker died between the two."""
    noted = run.infrastructure_pid or ""
    candidates = [int(noted)] if noted.isdigit() else psutil.pids()
    return any(_is_process_of(pid, str(run.id)) for pid in candidates)


def _is_process_of(pid: int, run: str) -> bool:
    try:
        process = psutil.Process(pid)
        return process.environ().get(STARTED_BY_WORKER) == run and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # gone, or another user's
        return False
