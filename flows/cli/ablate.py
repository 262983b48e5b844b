"""``headwater ablate``: which corpus makes the better model, with intervals, an A/A arm and a known-bad control."""

from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.options import (
    JsonOption,
    SetOption,
    WorkspaceOption,
    console,
    interrupt_on_term,
    open_store,
    own_stdout,
    print_json,
    table_of,
)


def command(
    lab: Annotated[
        str, typer.Argument(help="A bundled lab's name (filters, extractors, repetition, mixture), or a YAML file.")
    ],
    plan: Annotated[bool, typer.Option("--plan", help="Say what is to be trained and how long it takes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Train this arm, and those it is told by. Repeatable.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Trainings of every arm and rate; default: the lab's.")
    ] = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from flows.ablate.lab import load_lab
    from flows.ablate.run import describe_plan, plan_lab
    from flows.ablate.start import run_in_workspace

    interrupt_on_term()
    stream = own_stdout() if json else None
    loaded = load_lab(lab, set_ or (), seeds=seeds, only=only or ())
    store = open_store(workspace)
    if plan:
        planned = plan_lab(loaded, store)
        if json:
            print_json(planned.as_dict(), stream)
        else:
            console().print(f"{', '.join(planned.arms)}\n{describe_plan(planned)}", markup=False)
        return
    view = run_in_workspace(loaded, store, quiet=json).as_dict()
    if json:
        print_json(view, stream)
        return
    out = console()
    out.print(arms_table(view))
    out.print(verdicts_table(view))
    for line in remarks(view):
        out.print(line, markup=False)


def arms_table(view: dict[str, Any]) -> Table:
    table = table_of("Arms", "arm", ">documents", ">unique tokens", ">passes", ">bytes a token")
    for row in view["arms"]:
        table.add_row(
            row["arm"], f"{row['documents']:,}", f"{row['unique_tokens']:,}", f"{row['passes']:.2f}",
            f"{row['bytes_per_token']:.2f}",
        )  # fmt: skip
    return table


def verdicts_table(view: dict[str, Any]) -> Table:
    title = f"Bits per byte, less those of {view['baseline']} (negative is better; 95 %)"
    table = table_of(title, "arm", ">difference", ">", ">p (Holm)", "verdict")
    for row in view["verdicts"]:
        word = row["word"]
        if row["tokens_to_tell"]:
            word += f"; about {row['tokens_to_tell'] / 1e6:.3g}M tokens of this arm would tell"
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
        table.add_row(row["arm"], f"{row['delta']:+.4f}", interval, f"{row['p_holm']:.3f}", word)
    return table


def remarks(view: dict[str, Any]) -> list[str]:
    """What a reader must know beside the verdicts."""
    from flows.ablate.page import disagreeing

    lines = [f"Detectable at this budget: {view['mde']:.4f} bits per byte."]
    if arms := disagreeing(view):
        lines.append(f"Better at one learning rate and worse at another: {', '.join(arms)}.")
    if view["coin_flips"]:
        flips = ", ".join(view["coin_flips"])
        lines.append(f"Coin flips, left out: {flips} (the control {view['control']} cannot be told from A/A there).")
    if view["page"]:
        lines.append(f"Page     {view['page']}")
    return lines
