"""Flow runs that died with their worker, handed back to the server for the next worker.

A process that is killed tells nobody. On the server its flow run goes on for ever, holds a place in its pool, and nothing
else begins there. Who starts the only worker of a machine again knows better: a run of a process pool whose process is
gone is scheduled once more, as the UI's *Retry* does it. It finds what it finished in the store, and a child it
waited for by that child's key. One that was being cancelled is cancelled; one that was tried ``ATTEMPTS`` times is Crashed.
"""

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkPoolFilterType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Crashed

from flows.deployments import POOLS
from flows.outlive import STARTED_BY_WORKER

ATTEMPTS = 5
BEGUN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def hand_back() -> list[str]:
    """Give every lost run of this machine's process pools a state it can go on from; their names.

    Raises httpx.HTTPError soon if the server is away: who asks has to look after the server too.
    """
    pools = WorkPoolFilter(name=WorkPoolFilterName(any_=list(POOLS)), type=WorkPoolFilterType(any_=["process"]))
    begun = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BEGUN)))
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}), get_client(sync_client=True) as client:
        lost = [run for run in client.read_flow_runs(flow_run_filter=begun, work_pool_filter=pools) if not _lives(run)]
        for run in lost:
            client.set_flow_run_state(run.id, after_loss(run), force=True)
    return [run.name for run in lost]


def after_loss(run: FlowRun) -> State[None]:
    """The state of a run whose process is gone."""
    if run.state is not None and run.state.is_cancelling():
        return Cancelled(message="Its process ended with its worker.")
    if run.run_count >= ATTEMPTS:
        return Crashed(message=f"Its worker died in each of {run.run_count} attempts. Finished work is kept.")
    return AwaitingRetry(message="Its worker died: run again, finished work is kept.")


def _lives(run: FlowRun) -> bool:
    """Whether its process is there: a run of a process pool has the number noted, and its id in the environment."""
    try:
        process = psutil.Process(int(run.infrastructure_pid or 0))
        return process.environ().get(STARTED_BY_WORKER) == str(run.id)
    except (psutil.Error, ValueError):
        return False
