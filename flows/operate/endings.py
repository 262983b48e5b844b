"""How a flow run ends: with one line in its log that is its state's message too.

* Well: what came of it, in numbers and with reasons ("dedup: kept 2,888 of 2,914 documents, dropped 26 (near 20, url 6)").
* Not: one sentence with the stage's name first, and no traceback. An error that nobody foresaw keeps its traceback, above.
* Cancelled, here or where a stage ran, or interrupted: as that, and not as failed or crashed.

Prefect says the end of every task and flow again after us, and prints a failure as a traceback of its own engine: a
hundred lines below the sentence that people look for. Once a flow of ours has begun those lines are left out.
"""

import logging
from collections.abc import Callable
from typing import TypeVar, cast

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Failed

from flows.cancellation import Interrupted, StageCancelled, how_it_ended
from flows.execute import RunResult
from flows.operate.prefect_internals import leave_heartbeats_behind, leave_out_repetitions, outlive_worker
from flows.provenance.funnel import funnel
from infra.errors import HeadwaterError
from infra.planning import Action
from infra.progress import describe_dataset
from infra.runner import StageOutcome

T = TypeVar("T")
KEPT = "Run again: finished work is kept."


def as_flow_state(name: str, work: Callable[[], T], tell: Callable[[T], str] | None = None) -> T:
    """Carry out a flow's body; ``tell`` says in one line what came of it.

    Prefect takes a returned state as the run's own, and hands it to the caller as a value: see ``unwrap_state``.
    """
    outlive_worker()
    leave_heartbeats_behind()
    leave_out_repetitions()
    try:
        value = work()
    except KeyboardInterrupt:
        error = Interrupted("interrupted", remedy=KEPT)
        return cast(T, Cancelled(message=_sentence(name, error, logging.WARNING), data=error))
    except StageCancelled as error:
        return cast(T, Cancelled(message=_sentence(name, error, logging.WARNING), data=error))
    except HeadwaterError as error:
        return cast(T, Failed(message=_sentence(name, error, logging.ERROR), data=error))
    except Exception as error:
        get_run_logger().error("%s: an error of headwater itself:", name, exc_info=True)
        unforeseen = HeadwaterError(
            f"{type(error).__name__}: {error}",
            remedy="This is an error of headwater itself; its traceback is in the log.",
        )
        unforeseen.__cause__ = error
        return cast(T, Failed(message=_sentence(name, unforeseen, logging.ERROR), data=unforeseen))
    if tell is None:
        return value
    return cast(T, Completed(message=tell(value), data=value))


def as_task_state(name: str, work: Callable[[], T], signals: list[BaseException]) -> T:
    """Carry out a task's body. Its flow says what it failed of.

    A cancellation arrives as a signal, of which Prefect makes a crash in a task. The task is cancelled, as the run is; the
    signal is put into ``signals``, for the flow to go on with.
    """
    try:
        return work()
    except HeadwaterError as error:
        error.stage = error.stage or name
        return cast(T, Failed(message=str(error), data=error))
    except TerminationSignal as signal:
        if how_it_ended(signal) != "cancelled":
            raise
        signals.append(signal)
        return cast(T, Cancelled(message=f"{name}: cancelled"))


def unwrap_state(value: T) -> T:
    """What a task or flow returned; if that is a failure, the error behind it is raised."""
    if not isinstance(value, State):
        return value
    result = getattr(value.data, "result", value.data)
    if value.is_completed():
        return cast(T, result)
    raise result if isinstance(result, HeadwaterError) else HeadwaterError(value.message or str(value))


def unwrap_at_terminal(value: T) -> T:
    """The same for whoever started the run at a terminal, where an interruption is Ctrl-C."""
    try:
        return unwrap_state(value)
    except Interrupted:
        raise KeyboardInterrupt from None


def _sentence(name: str, error: HeadwaterError, level: int) -> str:
    """The error as the last line of the log, after the stage that it ended."""
    error.stage = error.stage or name
    sentence = f"{error.stage}: {str(error).removeprefix(f'stage {error.stage!r} ')}"
    get_run_logger().log(level, "%s", sentence)
    return sentence


def stage_line(outcome: StageOutcome) -> str:
    """What a stage came to, in one line."""
    manifest = outcome.dataset.manifest
    how = (
        f"SKIP: published as {manifest.fingerprint}"
        if outcome.action == Action.SKIP
        else f"published {manifest.fingerprint}"
    )
    return f"{outcome.stage}: {describe_dataset(manifest)}; {how}"


def run_line(result: RunResult) -> str:
    """What a run came to, in one line."""
    built = [outcome for outcome in result.outcomes if outcome.action != Action.SKIP]
    skipped = len(result.outcomes) - len(built)
    parts = [f"published {', '.join(outcome.stage for outcome in built)}" if built else "nothing was left to do"]
    if skipped:
        parts.append(f"{skipped} {'stage was' if skipped == 1 else 'stages were'} published already")
    rows = [row for row in funnel(result.datasets.values()) if row.incoming and row.stage != "shards"]
    if rows:
        parts.append(f"of {rows[0].incoming:,} documents {rows[-1].kept:,} are kept after {rows[-1].stage}")
    warned = [name for name, dataset in result.datasets.items() if dataset.manifest.warnings]
    if warned:
        parts.append(f"read the warnings of {', '.join(warned)}")
    return f"pipeline: {'; '.join(parts)}"
