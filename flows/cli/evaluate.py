"""``headwater evaluate``: measure a model on the held-out rows and problems of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json
from flows.closing import evaluation_table
from flows.models import model_folder
from infra.errors import InputError


def command(
    model: Annotated[str, typer.Argument(help="A stage, name@label, or a Hugging Face folder.")] = "export",
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows of each source.")] = 64,
    humaneval: Annotated[Path | None, typer.Option(help="A file of problems instead of the sample's.")] = None,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from training.evaluate import evaluate_model

    store = open_store(workspace)
    folder = model_folder(store, model, label)
    shards, sample = store.get_ref("shards", label), store.get_ref("sample", label)
    if humaneval is None and sample is not None:
        humaneval = sample.local("data/eval/humaneval.jsonl")
    if shards is None and humaneval is None:
        raise InputError("there is nothing to measure on", remedy="Run a recipe's shards stage, or give --humaneval.")
    result = evaluate_model(
        folder, shards=shards.local("data") if shards else None, humaneval=humaneval, max_rows=rows, name=model
    )
    if json:
        print_json(result)
    else:
        console().print(evaluation_table([{"model": result["model"], **task} for task in result["tasks"]]))
