"""``headwater evaluate``: measure a model, or two on the same rows, on held-out text, problems and harness tasks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json
from flows.cli.summary import evaluation_table
from flows.models import MODEL_HELP, model_folder
from flows.report.page import write_page
from flows.stages import labelled
from infra.errors import ConfigError, InputError
from infra.store.store import Store


def command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "export",
    compare: Annotated[
        str | None,
        typer.Option(help="Another one: the differences on the same rows; below zero, the first predicts better."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows of each source.")] = 64,
    humaneval: Annotated[Path | None, typer.Option(help="A file of problems instead of the sample's.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Problems scored, from the first on.")] = 164,
    samples: Annotated[int, typer.Option(min=0, help="Completions of each problem run in the sandbox.")] = 0,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", help="A task of lm-evaluation-harness, or a package's (my_pkg:NAME). Repeatable."),
    ] = None,
    task_folder: Annotated[Path | None, typer.Option(help="Task files of your own and their data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First documents of each harness task.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Solved examples before each question; by default as the task says.")
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Put harness tasks through the model's chat template.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="With --compare: write the label's report page, with the comparison, here.")
    ] = None,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    heldout = _heldout(store, label, humaneval) | {"max_rows": rows, "items": items}
    harness = {"harness": tasks or [], "harness_folder": task_folder, "harness_limit": limit}
    harness |= {"few_shot": num_fewshot, "chat": apply_chat_template}
    _refuse_contradictions(heldout, harness, samples, compare, report)
    if compare is not None:
        result = _compare(store, (model, compare), label, heldout)
    else:
        result = _measure(store, model, label, heldout | harness | {"samples": samples})
    table = [{"model": result["model"], **task} for task in result["tasks"]] + result.get("baselines", [])
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_page({dataset.name: dataset for dataset in labelled(store, label)}, report, comparisons=table)
        result["report"] = str(report)
    if json:
        print_json(result)
        return
    console().print(evaluation_table(table))
    if report is not None:
        console().print(str(report), markup=False)


def _heldout(store: Store, label: str, humaneval: Path | None) -> dict[str, Any]:
    """What the label's datasets hold to measure on."""
    shards, sample, tokenizer = (store.get_ref(name, label) for name in ("shards", "sample", "tokenizer"))
    if humaneval is None and sample is not None:
        humaneval = sample.local("data/eval/humaneval.jsonl")
    return {
        "shards": shards.local("data") if shards else None,
        "tokenizer": tokenizer.local("data") if tokenizer else None,
        "humaneval": humaneval,
    }


def _refuse_contradictions(
    heldout: dict[str, Any], harness: dict[str, Any], samples: int, compare: str | None, report: Path | None
) -> None:
    tasks = harness["harness"]
    if heldout["shards"] is None and heldout["humaneval"] is None and not tasks:
        raise InputError(
            "there is nothing to measure on", remedy="Run a recipe's shards stage, or give --humaneval or --task."
        )
    if (harness["few_shot"] is not None or harness["chat"]) and not tasks:
        raise ConfigError(
            "--num-fewshot and --apply-chat-template are for harness tasks", remedy="Name some by --task."
        )
    if report is not None and compare is None:
        raise ConfigError("--report goes with --compare", remedy="For the report of a run: headwater report.")
    if compare is not None and (tasks or samples):
        raise ConfigError(
            "models are compared on held-out rows and solutions", remedy="Leave out --task and --samples."
        )


def _measure(store: Store, model: str, label: str, how: dict[str, Any]) -> dict[str, Any]:
    from training.evaluate import evaluate_model

    with model_folder(store, model, label) as folder:
        return evaluate_model(folder, name=model, **how)


def _compare(store: Store, models: tuple[str, str], label: str, heldout: dict[str, Any]) -> dict[str, Any]:
    from training.evaluate import compare_models

    model, other = models
    with model_folder(store, model, label) as left, model_folder(store, other, label) as right:
        result = compare_models(left, right, **heldout)
    return result | {"model": f"{model} - {other}", "left": model, "right": other}
