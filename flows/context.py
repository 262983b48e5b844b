"""What a run is put together from: its workspace, and the executor, launcher and reporter that its recipe asks for.

Commands that only read open their workspace here too: what a run alone needs is imported where it is used.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.store.files import check_reachable
from infra.store.store import Store

if TYPE_CHECKING:
    from flows.recipe import Recipe
    from infra.progress import Reporter
    from infra.runs import RunRecord
    from infra.work import RunContext


def open_store(workspace: str | None) -> Store:
    """The workspace that was named, or $HEADWATER_HOME, or ./workspace."""
    store = Store.at(workspace or os.environ.get("HEADWATER_HOME") or "workspace")
    if not store.is_local:
        check_reachable(store.address)
    return store


def run_context(recipe: "Recipe", store: Store, record: "RunRecord", reporter: "Reporter") -> "RunContext":
    """What every stage of a run shares, from the recipe's execution settings."""
    from flows.machines import check_installed, executor_of, launcher_of
    from infra.work import RunContext

    settings = recipe.execution
    check_installed(settings)
    return RunContext(
        store=store,
        record=record,
        label=recipe.label,
        executor=executor_of(settings),
        launcher=launcher_of(settings),
        reporter=run_reporter(reporter, record),
        max_failed_fraction=settings.max_failed_fraction,
        on_drift=settings.on_drift,
        recipe=recipe.name,
    )


def run_reporter(reporter: "Reporter", record: "RunRecord") -> "Reporter":
    """The reporter, and beside it what every run tells: metrics if asked for, and the progress in its own record."""
    from infra.metrics import with_metrics
    from infra.progress import Reporters
    from infra.runs import ProgressNote

    return Reporters([with_metrics(reporter), ProgressNote(record)])


@contextmanager
def terminal_reporter(quiet: bool) -> "Iterator[Reporter]":
    """A live line on a terminal, plain lines otherwise. Both write to stderr: stdout is for results."""
    from infra.progress import PlainReporter, RichReporter

    if quiet or not sys.stderr.isatty():
        yield PlainReporter()
        return
    with RichReporter() as reporter:
        yield reporter
