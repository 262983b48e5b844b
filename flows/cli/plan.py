"""``headwater plan``: RUN, RESUME or SKIP for each stage, with the reason."""

from typing import Annotated

import typer
from rich.table import Table

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
)
from flows.incremental import planned
from flows.recipe import load_recipe
from infra.planning import Selection, StagePlan, plan

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
    json: JsonOption = False,
) -> None:
    loaded = load_recipe(recipe, overrides(set_, scale))
    selection = Selection(start_at, stop_after, tuple(only or ()), tuple(force or ()))
    store = open_store(workspace)
    on_crawl = planned(loaded, crawl, store)
    plans = plan(on_crawl.nodes, store, selection, on_crawl.label)
    if json:
        scale_view = {"scale": loaded.scale.as_dict()} if loaded.scale else {}
        print_json({"recipe": loaded.name, "stages": [entry.as_dict() for entry in plans], **scale_view})
        return
    out = console()
    out.print(plan_table(plans))
    if loaded.scale:
        from training.scale import show

        out.print("\n[bold]Pretraining by scale[/]")
        show(loaded.scale, lambda line: out.print(line, markup=False))


def plan_table(plans: list[StagePlan]) -> Table:
    table = Table(title="Plan", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "action", "fingerprint", "reason"):
        table.add_column(heading, no_wrap=heading != "reason")
    for entry in plans:
        action = f"[{STYLES[entry.action]}]{entry.action}[/]"
        table.add_row(entry.stage, action, entry.fingerprint or "not known yet", entry.reason)
    return table
