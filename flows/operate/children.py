"""Stages run by their deployments: the parent's side of it.

``run_deployment`` of Prefect waits for its child, but a parent that is retried would start a second child beside the
first, and a child that failed or was cancelled raises nothing. So here:

* the idempotency key of a child is ``<parent's flow run>:<stage>:<attempt of the parent>``. A parent that is run again, or
  resumed (same flow run, next attempt) looks for the children of its earlier attempts first and waits for one that still runs;
* a parent that carries out its stages itself gives each attempt children of its own (``set_aside_unfinished``);
* a parent that is paused goes, and its child goes on; the resumed one finds it;
* whatever the child's end is, the parent takes it over: completed, failed with the child's sentence, or cancelled;
* a cancelled parent cancels its child before it ends.
"""

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect._flow_run_suspension import raise_if_flow_run_suspension_requested
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling, Crashed

from flows.cancellation import StageCancelled
from infra.errors import HeadwaterError

POLL_S = (0.5, 5.0)
"""First and longest pause between two looks at a child."""
OUTAGE_S = 1800.0
"""How long a parent waits for a server that went away. The child does not need it."""


def run_child(name: str, form: Mapping[str, Any], tags: list[str]) -> FlowRun:
    """Run the deployment ``name`` (``dedup/dedup-demo``), or wait for the run of it that an earlier attempt began."""
    parent, stage = str(flow_run.id), name.split("/")[0]
    log = get_run_logger()
    with get_client(sync_client=True) as client:
        attempt = attempt_of(client, parent)
        child = running_child(client, [_key(parent, stage, number) for number in range(1, attempt + 1)])
        if child is not None:
            log.info("%s still runs from an earlier attempt as %s: waiting for it", name, child.name)
        else:
            try:
                started: Any = (
                    run_deployment(  # declared as maybe a coroutine; in a synchronous flow it is the flow run
                        name,
                        parameters={"params": dict(form)},
                        idempotency_key=_key(parent, stage, attempt),
                        tags=tags,
                        timeout=0,
                    )
                )
            except ObjectNotFound as error:
                raise HeadwaterError(
                    f"there is no deployment {name!r}", remedy="Create it: headwater deploy --recipe NAME."
                ) from error
            child = started
            log.info("%s runs as %s", name, child.name)
        try:
            child = _wait_for_end(client, child.id)
        except BaseException:  # a cancelled parent is ended by a signal, which arrives as an exception
            _cancel_with_parent(client, UUID(parent), child.id)
            raise
    _raise_unless_completed(stage, child)
    return child


def running_child(client: SyncPrefectClient, keys: list[str]) -> FlowRun | None:
    """The child with one of these keys that has not ended, or ended well; the newest of them."""
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys)))
    alive = [run for run in found if run.state is None or not run.state.is_final() or run.state.is_completed()]
    return max(alive, key=lambda run: str(run.created), default=None)


def set_aside_unfinished(stage: str) -> None:
    """End what an earlier attempt of this flow run left of a stage that is carried out in its own process.

    Prefect would go on in that child: one run with two beginnings, and the first attempt's log above the second's.
    """
    message = "The run it was a part of was paused, or lost its process, and went on with another one."
    with get_client(sync_client=True) as client:
        if attempt_of(client, str(flow_run.id)) < 2:
            return
        unfinished = FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(str(flow_run.id))]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))),
        )
        named = FlowFilter(name=FlowFilterName(any_=[stage]))
        for child in client.read_flow_runs(flow_filter=named, flow_run_filter=unfinished):
            client.set_flow_run_state(child.id, Crashed(message=message), force=True)
            if child.parent_task_run_id is not None:
                client.set_task_run_state(child.parent_task_run_id, Crashed(message=message), force=True)


def attempt_of(client: SyncPrefectClient, run: str) -> int:
    """Which attempt of a flow run this is: how often it began. The server's own count passes over a run that was paused and
    resumed; and a process that a worker starts has the count of those before it, by which Prefect looks for children."""
    attempt = max(sum(state.is_running() for state in client.read_flow_run_states(UUID(run))), 1)
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None and str(context.flow_run.id) == run:
        context.flow_run.run_count = attempt
    return attempt


def _key(parent: str, stage: str, attempt: int) -> str:
    return f"{parent}:{stage}:{attempt}"


def _wait_for_end(client: SyncPrefectClient, child: UUID) -> FlowRun:
    pause, seen = POLL_S[0], time.monotonic()
    while True:
        try:
            run = client.read_flow_run(child)
        except httpx.HTTPError as error:
            if time.monotonic() - seen > OUTAGE_S:
                raise HeadwaterError(
                    f"the Prefect server has been away for {OUTAGE_S / 60:.0f} minutes ({type(error).__name__})",
                    remedy="Start it and retry this run: it finds its child again.",
                ) from error
        else:
            seen = time.monotonic()
            if run.state is not None and run.state.is_final():
                return run
        raise_if_flow_run_suspension_requested()
        time.sleep(pause)
        pause = min(POLL_S[1], pause * 1.3)


def _cancel_with_parent(client: SyncPrefectClient, parent: UUID, child: UUID) -> None:
    """Cancel the child now. The server would do it too, but only once the parent's process was seen to have ended.

    A parent that is ended for another reason (its machine shuts down) leaves its child running: its next attempt finds it.
    """
    try:
        state = client.read_flow_run(parent).state
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            client.set_flow_run_state(child, Cancelling())
    except httpx.HTTPError as error:  # then the server does it; what ended us must not be replaced by this
        get_run_logger().warning("the child could not be cancelled from here: %s", error)


def _raise_unless_completed(stage: str, child: FlowRun) -> None:
    state = child.state
    if state is not None and state.is_completed():
        return
    if state is not None and state.is_cancelled():
        cancelled = StageCancelled(
            "cancelled", where=f"flow run {child.name}", remedy="Run again: finished work is kept."
        )
        cancelled.stage = stage
        raise cancelled
    message = (state.message if state else "") or f"it ended as {state.name if state else 'unknown'} without a word"
    error = HeadwaterError(
        message.removeprefix(f"{stage}: ").rstrip("."),
        where=f"flow run {child.name}",
        remedy="Mend the cause, then run again: finished work is kept.",
    )
    error.stage = stage
    raise error
