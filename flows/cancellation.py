"""How runs end: completed, failed, or before they are done, though nothing failed (cancelled on the server, or interrupted
where they run)."""

import contextlib
import sys
from collections.abc import Iterator

from infra.errors import HeadwaterError
from infra.runs import RunRecord


class StageCancelled(HeadwaterError):
    """A stage that runs elsewhere was cancelled there: its parent ends as cancelled too, and not as failed."""


class Interrupted(StageCancelled):
    """Somebody ended a run from its terminal."""


def how_it_ended(error: BaseException) -> str:
    """``failed``, ``cancelled`` (by the server's users) or ``interrupted`` (Ctrl-C, a machine that shuts down)."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, StageCancelled):
        return "cancelled"
    if isinstance(error, Exception):
        return "failed"
    prefect = sys.modules.get("prefect._internal.control_listener")  # there if this is a flow run
    return "cancelled" if prefect is not None and prefect.get_intent() == "cancel" else "interrupted"


@contextlib.contextmanager
def recorded_end(record: RunRecord) -> Iterator[None]:
    """Says in a run's record how the work of this block ended."""
    try:
        yield
    except BaseException as error:
        state = how_it_ended(error)
        with contextlib.suppress(OSError, HeadwaterError):  # a full disk must not hide behind its own record
            record.event("run_ended", state=state, error=str(error) or type(error).__name__)
        raise
    record.event("run_ended", state="completed")
