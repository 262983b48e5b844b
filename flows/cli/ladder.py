"""``headwater ladder``: a scaling law from small runs on a recipe's shards, with a plot and a prediction."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import (
    JsonOption,
    RecipeArgument,
    SetOption,
    WorkspaceOption,
    console,
    open_store,
    print_json,
    table_of,
)
from flows.recipe import load_recipe

EPOCHS = 4.0
"""Passes over the data from which on repetition costs more than the law knows (Muennighoff 2023)."""


def command(
    recipe: RecipeArgument = "demo",
    sizes: Annotated[str, typer.Option(help="Sizes of the rungs, at least four.")] = "300k,600k,1.2M,2.4M",
    target: Annotated[str, typer.Option(help="The size whose loss is predicted.")] = "125M",
    tokens_per_parameter: Annotated[
        float, typer.Option(min=0.1, max=1e6, help="The same for rungs and target.")
    ] = 20.0,
    domain: Annotated[str, typer.Option(help="Fit this held-out domain's bits per byte; default: their mean.")] = "",
    chart: Annotated[Path, typer.Option(help="Where the plot is written.")] = Path("ladder.svg"),
    set_: SetOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from flows.ladder import ladder_chart, run_ladder
    from training.scale import read_count

    ladder = run_ladder(
        load_recipe(recipe, set_ or ()),
        open_store(workspace),
        [read_count(size) for size in sizes.split(",")],
        read_count(target),
        tokens_per_parameter=tokens_per_parameter,
        domain=domain,
        quiet=json,
    )
    view = ladder.as_dict()
    chart.write_text(ladder_chart(ladder, target))
    if json:
        print_json(view | {"chart": str(chart)})
        return
    out = console()
    out.print(_table(view))
    law, aim = view["law"], view["target"]
    out.print(f"loss(C) = {law['floor']:.3f} + {law['scale']:.3f} · (C / {law['unit']:.2e})^-{law['slope']:.3f}")
    out.print(
        f"{target}: {aim['tokens']:,} tokens, {aim['flops']:.2e} FLOPs -> {aim['value']:.3f} "
        f"({aim['low']:.3f} – {aim['high']:.3f}, 90 %) {view['metric']}"
    )
    repeated = max(rung["epochs"] for rung in view["rungs"])
    if repeated > EPOCHS:
        out.print(f"Careful: a rung went over its data {repeated:.1f} times; more text would have taken it further.")
    out.print(f"Plot     {chart}", markup=False)


def _table(view: dict[str, list[dict[str, float]]]) -> Table:
    table = table_of("Ladder", ">parameters", ">tokens", ">epochs", ">FLOPs", ">bits per byte")
    for rung in view["rungs"]:
        table.add_row(
            f"{rung['parameters']:,}", f"{rung['tokens']:,}", f"{rung['epochs']:.2f}", f"{rung['flops']:.2e}",
            f"{rung['value']:.4f}",
        )  # fmt: skip
    return table
