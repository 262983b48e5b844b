"""``headwater run``: carry out a recipe."""

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
    interrupt_on_term,
    open_store,
    overrides,
    own_stdout,
    print_json,
    table_of,
)
from flows.cli.summary import print_summary
from flows.execute import RunResult
from flows.provenance.funnel import FunnelRow, funnel
from flows.provenance.notices import notice_lines
from flows.recipe import load_recipe
from flows.start import run_in_workspace
from infra.planning import StageSelection


def command(
    recipe: RecipeArgument = "demo",
    start_at: Annotated[
        str | None, typer.Option(help="First stage to consider; earlier ones must be published.")
    ] = None,
    stop_after: Annotated[str | None, typer.Option(help="Last stage to consider.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Consider only this stage. Repeatable.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="Build this stage again. Repeatable.")] = None,
    set_: SetOption = None,
    scale: ScaleOption = None,
    crawl: CrawlOption = "",
    workspace: WorkspaceOption = None,
    prefect: Annotated[
        bool | None,
        typer.Option(
            "--prefect/--no-prefect",
            help="Run as a Prefect flow, starting a server if none answers; or never look for one. "
            "Default: as a flow if the workspace's server answers.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    interrupt_on_term()
    stream = own_stdout() if json else None
    loaded = load_recipe(recipe, overrides(set_, scale))
    selection = StageSelection(start_at, stop_after, tuple(only or ()), tuple(force or ()))
    store = open_store(workspace)
    result = run_in_workspace(loaded, selection, store, crawl=crawl, use_prefect=prefect, quiet=json)
    if json:
        print_json(result_json(result), stream)
        return
    out = console()
    rows = funnel(result.datasets.values())
    if rows:
        out.print(funnel_table(rows))
    for line in notice_lines(result.datasets.values()):
        out.print(line, style="yellow", markup=False)
    print_summary(result, out, workspace)


def result_json(result: RunResult) -> dict[str, object]:
    return {
        "run": result.run,
        "stages": [
            {
                "stage": outcome.stage,
                "action": outcome.action,
                "reason": outcome.reason,
                "fingerprint": outcome.dataset.manifest.fingerprint,
                "digest": outcome.dataset.digest,
                "seconds": round(outcome.seconds, 2),
            }
            for outcome in result.outcomes
        ],
    }


def funnel_table(rows: list[FunnelRow]) -> Table:
    """Documents by stage, with the three rules that dropped most."""
    table = table_of("Funnel", "stage", ">in", ">kept", ">", ">dropped", ">failed", "most by")
    for row in rows:
        most = ", ".join(f"{rule} {number:,}" for rule, number in row.dropped[:3])
        table.add_row(
            row.stage, f"{row.incoming:,}", f"{row.kept:,}", f"{row.kept_share:.0%}",
            f"{sum(number for _, number in row.dropped):,}", f"{row.failed:,}", most,
        )  # fmt: skip
    return table
