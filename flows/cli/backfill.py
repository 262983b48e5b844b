"""``headwater backfill``: start the pipeline for crawls that were missed."""

from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import (
    JsonOption,
    SetOption,
    WorkspaceOption,
    console,
    interrupt_on_term,
    open_store,
    print_json,
    table_of,
)
from flows.crawls.backfill import Missed, StateOf, plan_backfill
from flows.crawls.incremental import require_crawl_source
from flows.crawls.series import LAST_STAGE, Series, select
from flows.operate.server import require_server, running_server
from flows.recipe import Recipe, load_recipe
from flows.start import run_in_workspace
from infra.planning import StageSelection
from infra.store.store import Store


def command(
    crawls: Annotated[
        str,
        typer.Option(help="OLDEST..NEWEST as the list of crawls has them, both included; one name; or a comma list."),
    ],
    recipe: Annotated[str, typer.Argument(help="A recipe with a common_crawl source.")] = "common-crawl-1b",
    crawl_list: Annotated[
        str, typer.Option(help="Address of collinfo.json, or of what holds it. Default: the recipe's mirror.")
    ] = "",
    train: Annotated[bool, typer.Option(help="Go on with training after the shards.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also start those whose run ended without shards.")] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Run them in this process, one after another, without a server.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be started, and start nothing.")] = False,
    set_: SetOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    interrupt_on_term()
    loaded, store = load_recipe(recipe, set_ or ()), open_store(workspace)
    require_crawl_source(loaded)
    series = Series(store, loaded.name)
    server = None if here else running_server(store) if dry_run else require_server(store, "; or add --here")
    from flows.crawls.watch import listed_crawls  # Prefect: configured before it is imported

    chosen = select(listed_crawls(loaded, crawl_list), crawls)
    plan = plan_backfill(series, chosen, again=again, state_of=_state_of(server), here=here)
    if not dry_run:
        start = _run_here if here else _start_on_server
        plan = [start(loaded, store, series, entry, train) if entry.action == "start" else entry for entry in plan]
    if json:
        print_json({"recipe": loaded.name, "dry_run": dry_run, "crawls": plan})
    else:
        console().print(_table(plan, dry_run))


def _state_of(server: str | None) -> StateOf:
    if server is None:
        return lambda flow_run: "unknown without a server"
    from flows.crawls.starting import run_state

    return run_state


def _start_on_server(recipe: Recipe, store: Store, series: Series, entry: Missed, train: bool) -> Missed:
    from flows.crawls.starting import CrawlRun, start_crawl

    how = CrawlRun(recipe, series, store.address, "inline", train)
    run = start_crawl(how, entry.crawl, "backfill", again=series.started(entry.crawl) is not None)
    return replace(entry, flow_run=str(run.id))


def _run_here(recipe: Recipe, store: Store, series: Series, entry: Missed, train: bool) -> Missed:
    selection = StageSelection(stop_after=None if train else LAST_STAGE)
    run_in_workspace(recipe, selection, store, crawl=entry.crawl, use_prefect=False)
    return replace(entry, reason="run here")


def _table(plan: list[Missed], dry_run: bool) -> Table:
    table = table_of("Backfill (dry run)" if dry_run else "Backfill", "crawl", "", "why", "flow run")
    for entry in plan:
        table.add_row(entry.crawl, entry.action, entry.reason, entry.flow_run or "")
    return table
