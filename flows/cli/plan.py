"""``headwater plan``: RUN, RESUME or SKIP for each stage, with the reason; and what the run will give and cost.

Exits with 1 if a stage is BLOCKED: ``run`` would refuse it too.
"""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.checks import meshes, notices
from flows.cli.options import (
    CrawlOption,
    JsonOption,
    RecipeArgument,
    ScaleOption,
    SetOption,
    WorkspaceOption,
    console,
    open_store,
    overrides,
    print_json,
    table_of,
)
from flows.crawls.incremental import planned
from flows.forecast import Forecast, forecast
from flows.machines import check_installed
from flows.recipe import load_recipe
from infra.planning import StagePlan, StageSelection, plan, refuse_blocked
from infra.progress import describe_bytes, describe_seconds

STYLES = {"RUN": "yellow", "RESUME": "cyan", "SKIP": "green", "BLOCKED": "red"}


def command(
    recipe: RecipeArgument = "demo",
    start_at: Annotated[str | None, typer.Option(help="First stage to consider.")] = None,
    stop_after: Annotated[str | None, typer.Option(help="Last stage to consider.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Consider only this stage. Repeatable.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="Build this stage again. Repeatable.")] = None,
    set_: SetOption = None,
    scale: ScaleOption = None,
    crawl: CrawlOption = "",
    workspace: WorkspaceOption = None,
    with_forecast: Annotated[
        bool, typer.Option("--forecast/--no-forecast", help="Forecast documents, tokens, disk and time, from a sample.")
    ] = True,
    json: JsonOption = False,
) -> None:
    loaded = load_recipe(recipe, overrides(set_, scale))
    selection = StageSelection(start_at, stop_after, tuple(only or ()), tuple(force or ()))
    check_installed(loaded.execution)
    store = open_store(workspace)
    on_crawl = planned(loaded, crawl, store)
    plans = plan(on_crawl.nodes, store, selection, on_crawl.label)
    expected = None
    if with_forecast:
        expected = forecast(on_crawl.nodes, plans, store, on_crawl.label, loaded.execution.workers)
    if json:
        scale_view = {"scale": loaded.scale.as_dict()} if loaded.scale else {}
        stages = [entry.as_dict() for entry in plans]
        view = {"recipe": loaded.name, "stages": stages, "notices": notices(on_crawl.nodes)}
        print_json({**view, "meshes": meshes(on_crawl.nodes), "forecast": expected, **scale_view})
        refuse_blocked(plans)
        return
    out = console()
    out.print(plan_table(plans))
    for sentence in notices(on_crawl.nodes) + meshes(on_crawl.nodes):
        out.print(f"  {sentence}", style="dim", markup=False)
    if expected:
        _show_forecast(expected)
    if loaded.scale:
        from training.scale import show

        out.print("\n[bold]Pretraining by scale[/]")
        show(loaded.scale, lambda line: out.print(line, markup=False))
    refuse_blocked(plans)


def plan_table(plans: list[StagePlan]) -> Table:
    table = table_of("Plan", "stage", "action", "fingerprint", "reason")
    for entry in plans:
        action = f"[{STYLES[entry.action]}]{entry.action}[/]"
        table.add_row(entry.stage, action, entry.fingerprint or "not known yet", escape(entry.reason))
    return table


def _show_forecast(expected: Forecast) -> None:
    table = table_of("Forecast", "stage", ">documents in", ">kept", ">disk", ">time", "from")
    for row in expected.stages:
        disk = "?" if row.bytes is None else describe_bytes(row.bytes)
        seconds = "?" if row.seconds is None else describe_seconds(row.seconds)
        table.add_row(row.stage, f"{row.incoming:,}", f"{row.kept:,}", disk, seconds, row.basis)
    out = console()
    out.print()
    if expected.documents is None or expected.tokens is None or expected.bytes is None or expected.seconds is None:
        out.print("No forecast:")
    else:
        out.print(table)
        out.print(
            f"About {expected.documents:,} documents and {expected.tokens:,} tokens, {describe_bytes(expected.bytes)} on disk, "
            f"{describe_seconds(expected.seconds)}; training is not part of it."
        )
    for note in expected.notes:
        out.print(f"  {note}", markup=False)
