"""Runs that end before they are done, though nothing failed: cancelled on the server, or interrupted where they run."""

import sys

from infra.errors import HeadwaterError


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
