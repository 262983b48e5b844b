"""Backfill: start the whole path for crawls that were missed, oldest first.

Of the crawls named, those that nobody started are started, as the daily watch would. They wait in the queue of crawls,
which lets one begin at a time; the command does not wait for them. Crawls that were started are left alone, whatever became
of them; with ``again``, those whose run ended without shards (failed, cancelled, lost with its server) are started anew.

``here``, without a server, the crawls are run one after another, and one that was begun without a server goes on: the same
command, given again, continues a broken off one. If somebody still runs that crawl, it waits for its turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flows.crawls.series import Series

Action = Literal["start", "skip"]
StateOf = Callable[[str], str]


@dataclass(frozen=True)
class Missed:
    """What is to be done about one crawl, and why."""

    crawl: str
    action: Action
    reason: str
    flow_run: str | None = None


def plan_backfill(
    series: Series, crawls: list[str], *, again: bool, state_of: StateOf, here: bool = False
) -> list[Missed]:
    """One entry a crawl, in the order given. ``state_of`` tells the state of a flow run by its id."""
    return [_plan(series, crawl, again, state_of, here) for crawl in crawls]


def _plan(series: Series, crawl: str, again: bool, state_of: StateOf, here: bool) -> Missed:
    if series.published(crawl):
        return Missed(crawl, "skip", "its shards are published")
    started = series.started(crawl)
    if started is None:
        if series.is_new(crawl):
            return Missed(crawl, "start", "not started yet")
        if here or again:
            return Missed(crawl, "start", "begun, and not published")
        return Missed(crawl, "skip", "begun by headwater run or --here; --again starts it on the server")
    state = state_of(started.flow_run)
    if state in ("Failed", "Crashed", "Cancelled", "TimedOut", "Completed", "lost"):
        if again:
            return Missed(crawl, "start", f"its run ended without shards ({state})", started.flow_run)
        return Missed(
            crawl, "skip", f"its run ended without shards ({state}); --again starts it anew", started.flow_run
        )
    return Missed(crawl, "skip", f"its run is {state}", started.flow_run)
