"""``headwater report``: one self-contained HTML page over a recipe's datasets, or those of one run."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json
from flows.provenance.run_history import OtherRun, datasets_of_run
from flows.report import PAGE
from flows.report.page import leave_page
from flows.stages import labelled
from infra.errors import InputError
from infra.store.cache import local_file
from infra.store.dataset import Dataset
from infra.store.files import child_names
from infra.store.store import Store


def command(
    run: Annotated[str, typer.Argument(help="A recipe's label, or a run's id.")] = "latest",
    to: Annotated[Path | None, typer.Option("--to", help="Copy the page here.")] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--beside", help="Another label or run, whose curves share the axes. Repeatable. Default: the last run."
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    datasets = _datasets(store, run)
    if "report" in datasets and not beside:
        page = datasets["report"].local(PAGE)
    else:
        others = [OtherRun(name, _datasets(store, name)) for name in beside or ()]
        page = local_file(leave_page(store, datasets, "-beside-".join([run, *(beside or ())])[:120], others))
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, to)
        page = to
    if json:
        print_json({"report": str(page)})
    else:
        console().print(str(page), markup=False)


def _datasets(store: Store, name: str) -> dict[str, Dataset]:
    """What a label points at, or what a run made or used. Raises InputError where there is nothing."""
    found = {dataset.name: dataset for dataset in labelled(store, name)}
    if not found and name in child_names(f"{store.address}/runs"):
        found = datasets_of_run(store, name)
    if not found:
        raise InputError(
            f"nothing is published under {name!r}",
            where=store.address,
            remedy="Run a recipe first; headwater status lists the runs.",
        )
    return found
