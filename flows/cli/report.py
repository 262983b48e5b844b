"""``headwater report``: one self-contained HTML page over a recipe's datasets."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import JsonOption, WorkspaceOption, console, labelled, open_store, print_json
from flows.report import write_page
from infra.errors import InputError
from infra.runs import list_runs


def command(
    run: Annotated[str, typer.Argument(help="A recipe's label, or a run's id.")] = "latest",
    to: Annotated[Path | None, typer.Option("--to", help="Copy the page here.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    label = next((entry["recipe"] for entry in list_runs(store) if entry["id"] == run), run)
    published = store.get_ref("report", label)
    if published is not None:
        page = published.local("data/report.html")
    else:
        datasets = labelled(store, label)
        if not datasets:
            raise InputError(f"nothing is published under {run!r}", where=store.address, remedy="Run a recipe first.")
        page = store.home / "reports" / f"{label}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page({dataset.name: dataset for dataset in datasets}, page)
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, to)
        page = to
    if json:
        print_json({"report": str(page)})
    else:
        console().print(str(page), markup=False)
