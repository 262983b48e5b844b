"""``headwater mix``: weights of a recipe's sources for a target, by one small model a source."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.options import (
    JsonOption,
    RecipeArgument,
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
    recipe: RecipeArgument = "demo",
    sources: Annotated[str, typer.Option(help="The sources to weigh, A,B,C; default: all.")] = "",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Texts to be good at: JSONL or Parquet, FILE or FILE:FIELD. Repeatable; default: a lab's set."
        ),
    ] = None,
    tokens: Annotated[str, typer.Option(help="Tokens each model is trained on (2M).")] = "",
    max_passes: Annotated[float, typer.Option(min=0.1, max=1e6, help="Passes over a source at most.")] = 4.0,
    piece: Annotated[str, typer.Option(help="token, or item: what is mixed as a whole.")] = "token",
    write: Annotated[
        Path | None,
        typer.Option(help="Write the recipe with these weights here, and beside it a lab that measures them."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is to be built.")] = False,
    set_: SetOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from flows.mix.run import Mixing, plan_mix, refuse_written, target_of, write_mixture
    from flows.mix.start import run_in_workspace
    from training.scale import read_count

    interrupt_on_term()
    if piece not in ("token", "item"):
        raise typer.BadParameter("--piece is token or item")
    mixing = Mixing(
        recipe,
        tuple(set_ or ()),
        tuple(name.strip() for name in sources.split(",") if name.strip()),
        tuple(target_of(file) for file in target or ()),
        int(read_count(tokens)) if tokens else 0,
        max_passes,
        "item" if piece == "item" else "token",
    )
    if write:
        refuse_written(write)
    stream = own_stdout() if json else None
    store = open_store(workspace)
    if plan:
        rows = plan_mix(mixing, store)
        if json:
            print_json({"sources": rows, "trainings": len(rows)}, stream)
        else:
            _print_plan(rows)
        return
    result = run_in_workspace(mixing, store, quiet=json)
    lab = write_mixture(result, write) if write else None
    view = result.as_dict()
    if lab is not None:
        changed = " ".join(f"--set {shlex.quote(each)}" for each in mixing.overrides)
        view |= {
            "recipe_file": str(write),
            "lab_file": str(lab),
            "measure": f"headwater ablate {lab} {changed}".strip(),
        }
    if json:
        print_json(view, stream)
    else:
        _print_mixture(view)


def _print_mixture(view: dict[str, Any]) -> None:
    out = console()
    out.print(_table(view))
    for line in _remarks(view):
        out.print(line, markup=False)


def _print_plan(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        made = ", ".join(row["stages"]) or "rows are published"
        console().print(f"{row['source']}: {made}; then its model", markup=False)


def _table(view: dict[str, Any]) -> Table:
    table = table_of("Mixture", "source", ">tokens", ">natural", ">weight", ">passes", ">its model's bits per byte")
    for row in view["sources"]:
        limited = " (limit)" if row["limited"] else ""
        table.add_row(
            row["source"], f"{row['available_tokens']:,}", f"{row['natural']:.3f}", f"{row['weight']:.3f}",
            f"{row['passes']:.2f}{limited}", f"{row['bits_per_byte']:.3f}",
        )  # fmt: skip
    return table


def _remarks(view: dict[str, Any]) -> list[str]:
    """What the weights promise, where they were held back, and how to know."""
    predicted, gain = view["predicted"], view["predicted"]["gain"]
    lines = [
        f"Predicted on {', '.join(view['targets'])}: {predicted['mixed_bits_per_byte']:.4f} bits per byte, with natural weights "
        f"{predicted['natural_bits_per_byte']:.4f}; a gain of {gain['value']:.4f} ({gain['low']:.4f} to {gain['high']:.4f}, 95 %)"
    ]
    lines += [
        f"{row['source']} would have {row['unlimited']:.3f}; {view['training_tokens']:,} training tokens allow it "
        f"{row['weight']:.3f} in {view['max_passes']:g} passes"
        for row in view["sources"]
        if row["limited"]
    ]
    if "recipe_file" in view:
        lines.append(f"Recipe   {view['recipe_file']}")
        lines.append(f"Measure  {view['measure']}")
    return lines
