"""Starting a run: as a Prefect flow where the workspace's server answers, and by itself where none does."""

from flows.context import run_context, terminal_reporter
from flows.crawls.incremental import series_lock
from flows.execute import RunResult, run_recipe
from flows.operate.server import configure, running_server
from flows.recipe import Recipe
from infra.errors import HeadwaterError
from infra.planning import Action, StageSelection, plan
from infra.runs import RunRecord
from infra.store.store import Store


def run_in_workspace(
    recipe: Recipe,
    selection: StageSelection,
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
        series_lock(recipe, crawl, store, lambda text: reporter.message("crawl", text)) as (set_recipe, note),
    ):
        record = RunRecord.start(store, set_recipe.label)
        context = run_context(set_recipe, store, record, reporter)
        return run_recipe(set_recipe, selection, context, on_outcome=note)


def _all_published(recipe: Recipe, selection: StageSelection, store: Store) -> bool:
    """Whether there is nothing to do. A recipe that cannot be planned, or may mind edited source, is not so sure."""
    if recipe.execution.on_drift != "warn":
        return False
    try:
        plans = plan(recipe.nodes, store, selection, recipe.label)
    except HeadwaterError:
        return False
    return all(entry.action is Action.SKIP for entry in plans if entry.selected)
