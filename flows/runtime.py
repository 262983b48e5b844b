"""Putting a run together: the workspace's executor, launcher and reporter around a recipe."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flows.crawls.incremental import turn
from flows.execute import RunResult, run_recipe
from flows.machines import check_installed, executor_of, launcher_of
from flows.operate.server import configure, running_server
from flows.recipe import Recipe
from infra.errors import HeadwaterError
from infra.metrics import with_metrics
from infra.planning import Action, Selection, plan
from infra.progress import PlainReporter, Reporter, Reporters, RichReporter
from infra.runner import RunContext
from infra.runs import ProgressNote, RunRecord
from infra.store.files import check_reachable
from infra.store.store import Store


def open_store(workspace: str | None) -> Store:
    """The workspace that was named, or $HEADWATER_HOME, or ./workspace."""
    store = Store.at(workspace or os.environ.get("HEADWATER_HOME") or "workspace")
    if not store.is_local:
        check_reachable(store.address)
    return store


def run_context(recipe: Recipe, store: Store, record: RunRecord, reporter: Reporter) -> RunContext:
    """What every stage of a run shares, from the recipe's execution settings."""
    settings = recipe.execution
    check_installed(settings)
    return RunContext(
        store=store,
        record=record,
        label=recipe.label,
        executor=executor_of(settings),
        launcher=launcher_of(settings),
        reporter=Reporters([with_metrics(reporter), ProgressNote(record)]),
        max_failed_fraction=settings.max_failed_fraction,
        on_drift=settings.on_drift,
        recipe=recipe.name,
    )


def run_in_workspace(
    recipe: Recipe,
    selection: Selection,
    store: Store,
    *,
    crawl: str = "",
    use_prefect: bool | None = None,
    quiet: bool = False,
) -> RunResult:
    """Run a recipe in a workspace, on the next crawl of its series if one is named.

    As a Prefect flow if the workspace's server answers (``headwater up``, or ``PREFECT_API_URL``), so that the run is
    seen there. Without a server the same stages are run directly and ``runs/`` in the store is the only record: starting
    a server for one run costs half a minute. ``use_prefect=True`` does that all the same, ``False`` never looks for one.
    A run that finds everything published is no flow run unless it is asked for: to say so takes longer than to see it.
    """
    if use_prefect is not False:
        address = running_server(store)
        if use_prefect or (address is not None and (crawl or not _all_published(recipe, selection, store))):
            configure(store, address)
            from flows.pipeline import run_as_flow  # imports Prefect, which must be configured before

            return run_as_flow(recipe, selection, store, crawl)
    with (
        terminal_reporter(quiet) as reporter,
        turn(recipe, crawl, store, lambda text: reporter.message("crawl", text)) as (set_recipe, note),
    ):
        record = RunRecord.start(store, set_recipe.label)
        context = run_context(set_recipe, store, record, reporter)
        return run_recipe(set_recipe, selection, context, on_outcome=note)


def _all_published(recipe: Recipe, selection: Selection, store: Store) -> bool:
    """Whether there is nothing to do. A recipe that cannot be planned, or may mind edited source, is not so sure."""
    if recipe.execution.on_drift != "warn":
        return False
    try:
        plans = plan(recipe.nodes, store, selection, recipe.label)
    except HeadwaterError:
        return False
    return all(entry.action is Action.SKIP for entry in plans if entry.selected)


@contextmanager
def terminal_reporter(quiet: bool) -> Iterator[Reporter]:
    """A live line on a terminal, plain lines otherwise. Both write to stderr: stdout is for results."""
    if quiet or not sys.stderr.isatty():
        yield PlainReporter()
        return
    with RichReporter() as reporter:
        yield reporter
