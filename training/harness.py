"""EleutherAI's lm-evaluation-harness on a model folder.

The harness is an optional dependency. Its own task names work where its datasets can be downloaded; with ``task_folder``
it also reads task files of one's own, whose data paths are relative to that folder, so that an evaluation needs no
network:

    task: my_arc
    dataset_path: json
    dataset_kwargs: {data_files: {test: arc.jsonl}}
    output_type: multiple_choice
    test_split: test
    doc_to_text: "Question: {{question}}\\nAnswer:"
    doc_to_choice: "{{choices}}"
    doc_to_target: "{{answer}}"
    metric_list: [{metric: acc}]
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from infra.errors import ConfigError, InputError
from training.intervals import Interval


@dataclass(frozen=True)
class Figure:
    """One figure of one task."""

    task: str
    metric: str
    interval: Interval


def run_harness(
    folder: Path,
    tasks: Sequence[str],
    *,
    task_folder: Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    batch_size: int = 8,
    chat: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Figure]:
    """Run tasks on a model folder. ``limit`` takes the first documents of each; ``few_shot`` examples come before each
    question (none given: as many as the task says); ``chat`` puts both through the chat template, turn by turn."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        from training.harness_model import HarnessModel
    except ImportError:
        raise ConfigError(
            "lm-evaluation-harness is not installed", remedy="Install it: pip install 'headwater[evaluation]'."
        ) from None
    if task_folder is not None and not task_folder.is_dir():
        raise InputError("there is no folder of task files", where=str(task_folder))
    model = HarnessModel(folder.resolve(), batch_size, chat)
    manager = TaskManager(include_path=task_folder and str(task_folder.resolve()), include_defaults=task_folder is None)
    if not all(manager.match_tasks([task]) for task in tasks):
        # Some are the harness's own: reading its thousands of task files takes ten seconds.
        manager = TaskManager(include_path=task_folder and str(task_folder.resolve()))
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise ConfigError(
            f"the harness knows no task {unknown[0]!r}", remedy="`lm_eval ls tasks` lists them; add a task file."
        )
    # Data paths in task files are relative to the current folder, so it is made the task files' own.
    with contextlib.chdir(task_folder) if task_folder is not None else contextlib.nullcontext():
        try:
            outcome = simple_evaluate(
                model=model,
                tasks=list(tasks),
                num_fewshot=few_shot,
                limit=limit,
                bootstrap_iters=1000,
                log_samples=False,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
                task_manager=manager,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except OSError as error:  # a hub that is not reached, a data file that is not there
            raise InputError(
                f"the data of {', '.join(tasks)} cannot be read: {str(error).splitlines()[0]}",
                where="--task",
                remedy="The harness's own tasks download theirs; task files of your own (--task-folder) need no network.",
            ) from error
    return figures(outcome, confidence)


def figures(outcome: Mapping[str, Any], confidence: float = 0.95) -> list[Figure]:
    """The harness's table: every metric with an interval from its standard error."""
    deviations = NormalDist().inv_cdf(0.5 + confidence / 2)
    found = []
    for task, row in sorted(outcome["results"].items()):
        number = int(outcome.get("n-samples", {}).get(task, {}).get("effective", 0))
        for key, value in sorted(row.items()):
            metric, _, variant = key.partition(",")
            if not variant or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = row.get(f"{metric}_stderr,{variant}")
            half = deviations * error if isinstance(error, (int, float)) and math.isfinite(error) else 0.0
            name = metric if variant == "none" else f"{metric} ({variant})"
            found.append(Figure(task, name, Interval(float(value), value - half, value + half, number)))
    return found
