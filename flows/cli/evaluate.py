"""``headwater evaluate``: measure a model, or two on the same rows, on held-out text, problems and harness tasks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json
from flows.closing import evaluation_table
from flows.models import model_folder
from infra.errors import ConfigError, InputError


def command(
    model: Annotated[str, typer.Argument(help="A stage, name@label, name/fingerprint, or a Hugging Face folder.")] = (
        "export"
    ),
    compare: Annotated[
        str | None,
        typer.Option(help="Another model: the differences on the same rows; below zero, the first predicts better."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows of each source.")] = 64,
    humaneval: Annotated[Path | None, typer.Option(help="A file of problems instead of the sample's.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Problems scored, from the first on.")] = 164,
    samples: Annotated[int, typer.Option(min=0, help="Completions of each problem run in the sandbox.")] = 0,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="A task of lm-evaluation-harness. Repeatable.")
    ] = None,
    task_folder: Annotated[Path | None, typer.Option(help="Task files of your own and their data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First documents of each harness task.")] = None,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    shards, sample = store.get_ref("shards", label), store.get_ref("sample", label)
    if humaneval is None and sample is not None:
        humaneval = sample.local("data/eval/humaneval.jsonl")
    if shards is None and humaneval is None and not tasks:
        raise InputError(
            "there is nothing to measure on", remedy="Run a recipe's shards stage, or give --humaneval or --task."
        )
    folder = model_folder(store, model, label)
    heldout: dict[str, Any] = {
        "shards": shards.local("data") if shards else None,
        "humaneval": humaneval,
        "max_rows": rows,
        "items": items,
    }
    if compare is not None:
        if tasks or samples:
            raise ConfigError(
                "models are compared on held-out rows and solutions", remedy="Leave out --task and --samples."
            )
        result = _compare(folder, model_folder(store, compare, label), f"{model} - {compare}", heldout)
    else:
        result = _measure(folder, model, heldout, samples, tasks or [], task_folder, limit)
    if json:
        print_json(result)
    else:
        console().print(evaluation_table([{"model": result["model"], **task} for task in result["tasks"]]))


def _measure(
    folder: Path,
    name: str,
    heldout: dict[str, Any],
    samples: int,
    tasks: list[str],
    task_folder: Path | None,
    limit: int | None,
) -> dict[str, Any]:
    from training.evaluate import evaluate_model

    return evaluate_model(
        folder,
        **heldout,
        samples=samples,
        harness=tasks,
        harness_folder=task_folder,
        harness_limit=limit,
        name=name,
    )


def _compare(left: Path, right: Path, name: str, heldout: dict[str, Any]) -> dict[str, Any]:
    from training.evaluate import compare_models

    return {"model": name, **compare_models(left, right, **heldout)}
