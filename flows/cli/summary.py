"""The last words of a run: the evaluation, where the report is, and a short chat with the model."""

import json
import shlex
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.cli.options import table_of
from flows.execute import RunResult
from infra.planning import Action
from infra.store.dataset import Dataset

OPENINGS = ("Hi, how are you?", "What do you like to do on weekends?")


def print_summary(result: RunResult, out: Console, workspace: str | None = None) -> None:
    """Print what the run's datasets have to show; stages that are not part of the recipe are passed over.

    The chat is for a model that is new: loading one takes longer than a run in which nothing was left to do.
    """
    datasets = result.datasets
    if "evaluate" in datasets:
        found = json.loads(datasets["evaluate"].local("data/evaluation.json").read_text())
        out.print(evaluation_table(found["tasks"]))
    if "export" in datasets:
        if any(outcome.action != Action.SKIP for outcome in result.outcomes):
            _chat(datasets["export"], out)
        out.print(f"Model    {datasets['export'].local('data')}", markup=False)
    if "report" in datasets:
        out.print(f"Report   {datasets['report'].local('data/report.html')}", markup=False)
    if "export" in datasets:
        # Beside the model as it is now, one that preferences have not touched.
        models = [name for name in ("export", "sft") if name in datasets]
        where = ["--workspace", workspace] if workspace else []
        out.print(f"Open     {shlex.join(['headwater', 'serve', *models, *where])}", markup=False)


def evaluation_table(tasks: list[dict[str, Any]]) -> Table:
    """One row a figure: ``{model, task, metric, value, low, high, n}``."""
    table = table_of("Evaluation", "model", "task", "metric", ">value", ">95 % interval", ">n")
    for task in tasks:
        low, high = task.get("low"), task.get("high")
        interval = f"{low:.3f} – {high:.3f}" if low is not None and high is not None else ""
        count = f"{task['n']:,}" if task.get("n") is not None else ""
        table.add_row(task.get("model", ""), task["task"], task["metric"], f"{task['value']:.3f}", interval, count)
    return table


def _chat(export: Dataset, out: Console) -> None:
    from training.chat import ChatSession  # imports torch: only where a model is at hand
    from training.generate import Sampling

    # A model of a few million parameters is at its best close to its likeliest words.
    sampling = Sampling(max_new_tokens=48, temperature=0.5, top_p=0.9, repetition_penalty=1.1)
    out.print("Chat")
    for opening in OPENINGS:
        session = ChatSession.open(export.local("data"), sampling=sampling)
        reply = session.reply(opening)
        out.print(f"  you    {opening}\n  model  {' '.join(reply.split())}", markup=False)
