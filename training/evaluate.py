"""The stage ``evaluate``, and the measures behind it.

    bits per byte by domain      held-out rows of each source, with bootstrap intervals over rows
    bits per byte of solutions   HumanEval's canonical solutions after their prompts: smooth where passing is still rare
    comparisons                  each model with the one it was made from, on the same rows
    lm-evaluation-harness        any of its tasks, and task files of one's own
    tasks of other packages      a score an item (``training.own_tasks``)
    the reward model's figures   what the stages ``reward`` and ``ppo`` measured, carried over

Bits per byte do not depend on the tokenizer, so models with different vocabularies can be compared. Beside the models
stand baselines: ``unigram`` knows nothing but how often each token occurs; ``5-gram`` counts the training tokens and
``xz -9`` compresses the held-out texts (see ``training.baselines``).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from infra.config import Config, Json, Later
from infra.errors import InputError
from infra.extensions import reference_of
from infra.job import JobRequest, JobSpec, emit, finish
from infra.job_main import job_main
from infra.stage import JobStage
from infra.store.address import dataset_file, dataset_inputs, local_path
from infra.store.files import read_json, sha256_file, write_json
from pipeline.shards.format import TRAIN, validation_split
from pipeline.shards.reader import RowBatch, ShardSet, splits
from pipeline.tokenizer import Tokenizer
from training.baselines import ngram_of_shards, score_rows_by_ngram, xz_bits_per_byte
from training.generate import Sampling
from training.harness import run_harness
from training.heldout_text import divided, rows_reader, score_texts
from training.humaneval import Attempt, Problem, complete_problems, pass_at_k, read_problems, run_attempts
from training.intervals import Interval, Resampling, ratio_interval
from training.own_tasks import OwnTask, own_tasks, same_items, scores_of
from training.scoring import RowScores, continuation_nats, score_rows
from training.text_model import TextModel, load_text_model

ModelStage = Literal["pretrain", "sft", "ppo", "dpo", "grpo"]
HUMANEVAL = "humaneval"
BEFORE: Mapping[str, str] = {"sft": "pretrain", "ppo": "sft", "dpo": "sft", "grpo": "sft"}
"""Which model each was made from: what it is compared with."""


class EvaluateConfig(Config):
    """What is measured of which models."""

    models: tuple[ModelStage, ...] = ("pretrain", "sft", "ppo", "dpo")
    """Models to measure, in the order in which they were made."""
    max_rows: int = Field(default=64, ge=1)
    """Held-out rows of each source, taken evenly from all of them."""
    humaneval: str = "dataset://sample/eval/humaneval.jsonl"
    """HumanEval's problems: a path, a file of the sample dataset, or empty for none."""
    humaneval_items: int = Field(default=164, ge=1)
    """Problems scored, from the first on."""
    humaneval_samples: int = Field(default=0, ge=0)
    """Completions of each problem that are run in the sandbox; 0: none, only the solutions' bits per byte."""
    harness_tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, by name; needs the extra ``evaluation``."""
    harness_folder: str = ""
    """A folder with task files of your own and their data; empty: only the harness's tasks."""
    harness_few_shot: int | None = Field(default=None, ge=0)
    """Solved examples before each question of a harness task; none: as many as the task says."""
    harness_chat: bool = False
    """Put the harness's questions and examples through the models' chat template."""
    harness_limit: int | None = Field(default=None, ge=1)
    """First documents of each harness task; none: all."""
    tasks: Annotated[tuple[str, ...], Later()] = ()
    """Evaluations of other packages, by dotted path or the name under which an installed package offers them."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples behind each interval."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resampling."""
    ngram_tokens: int = Field(default=8_000_000, ge=0)
    """Training tokens that the 5-gram baseline counts, of evenly chosen rows where there are more (a second and 60 MB a
    million); 0: no such baseline."""
    batch_size: int = Field(default=8, ge=1)
    """Rows scored at a time."""
    threads: int = Field(default=2, ge=1)
    """Threads of the process. Like the batch size it decides the order of sums, and so the last digits."""


def inputs(config: EvaluateConfig) -> Mapping[str, str]:
    """Input datasets, as role and stage name."""
    roles = {"shards", "tokenizer", *config.models}
    if "ppo" in config.models:
        roles.add("reward")
    return {role: role for role in sorted(roles)} | dataset_inputs([config.humaneval])


def external(config: EvaluateConfig) -> Json:
    """Problems and task files that are not in the store, by content. Raises InputError where one is missing."""
    files = [Path(config.humaneval)] if config.humaneval and not dataset_file(config.humaneval) else []
    if config.harness_folder:
        if not Path(config.harness_folder).is_dir():
            raise InputError(
                "there is no folder of tasks", where=config.harness_folder, remedy="Check evaluate.harness_folder."
            )
        files += sorted(path for path in Path(config.harness_folder).rglob("*") if path.is_file())
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError("there is no file of problems", where=str(missing[0]), remedy="Check evaluate.humaneval.")
    return {str(path): sha256_file(path) for path in files} or None


STAGE = JobStage(
    name="evaluate",
    code_version=3,  # 3: a 5-gram and xz stand beside the models
    config=EvaluateConfig,
    inputs=inputs,
    external=external,
    check=lambda config: _check(config),
    job=lambda config: JobSpec("training.evaluate", ranks=1, threads_per_rank=config.threads),
    description="Measures the models on held-out text with intervals, and compares them.",
)


def _check(config: EvaluateConfig) -> None:
    own_tasks(config.tasks)


@dataclass(frozen=True)
class Task:
    """One figure with its interval."""

    model: str
    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, model: str, task: str, metric: str, interval: Interval) -> "Task":
        # Rounded to what the intervals make worth reading.
        value, low, high = (round(figure, 5) for figure in (interval.value, interval.low, interval.high))
        return cls(model, task, metric, value, low, high, interval.n)


@dataclass(frozen=True)
class Heldout:
    """What models are measured on."""

    sources: Mapping[str, ShardSet]
    problems: Sequence[Problem]
    unigram_nats: float | None
    """Entropy of the training shards' token frequencies, nats a token."""
    writer: Tokenizer | None = None
    """The tokenizer that wrote the rows, for a model with another one; None: their ids are the model's own."""


@dataclass(frozen=True)
class Measured:
    """A model's scores by task: losses (nats) and bytes of each row or problem."""

    name: str
    scores: Mapping[str, RowScores]
    attempts: Sequence[Sequence[Attempt]] = ()
    """Completions of HumanEval that were run."""
    own: Mapping[OwnTask, np.ndarray] = field(default_factory=dict)
    """Scores of the items of other packages' tasks."""


def open_heldout(
    shards: Path | None, tokenizer_digest: str | None, humaneval: Path | None, items: int = 164
) -> Heldout:
    """The validation rows of a shards dataset's ``data`` and the problems of a HumanEval file.

    Shards of another tokenizer than the models' are refused: their ids mean other text.
    """
    sources: dict[str, ShardSet] = {}
    unigram: float | None = None
    if shards is not None:
        names = [split for split in splits(shards) if split != TRAIN]
        opened = {name: ShardSet.open(shards, name, tokenizer_digest) for name in names}
        sources = {name.removeprefix(validation_split("")): rows for name, rows in opened.items() if len(rows)}
        unigram = read_json(shards / "stats.json").get("unigram_entropy_nats")
        if not sources:
            raise InputError(
                "the shards hold no validation rows", where=str(shards), remedy="Raise shards.validation_fraction."
            )
    return Heldout(sources, read_problems(humaneval)[:items] if humaneval else [], unigram)


def measure(
    name: str,
    model: TextModel,
    heldout: Heldout,
    *,
    max_rows: int,
    batch_size: int = 8,
    samples: int = 0,
    on_task: Callable[[str], None] = lambda task: None,
) -> Measured:
    """All scores of one model; ``samples`` completions of each problem are run."""
    scores: dict[str, RowScores] = {}
    for source, shards in heldout.sources.items():
        on_task(source)
        rows = chosen_rows(shards, max_rows)
        if heldout.writer is None:
            scores[source] = score_rows(model.decoder, rows, batch_size)
        else:
            scores[source] = score_texts(model, rows, heldout.writer, batch_size)
    if heldout.problems:
        on_task(HUMANEVAL)
        scores[HUMANEVAL] = score_solutions(model, heldout.problems, batch_size)
    if not heldout.problems or not samples:
        return Measured(name, scores)
    on_task("humaneval programs")
    sampling = Sampling(max_new_tokens=256, temperature=0 if samples == 1 else 0.8)
    completions = complete_problems(model, heldout.problems, sampling, samples)
    return Measured(name, scores, run_attempts(heldout.problems, completions))


def chosen_rows(shards: ShardSet, most: int) -> RowBatch:
    """The held-out rows that are scored: evenly taken from all of them."""
    return shards.rows(np.unique(np.linspace(0, len(shards) - 1, most).round().astype(np.int64)))


def score_solutions(model: TextModel, problems: Sequence[Problem], batch_size: int) -> RowScores:
    """Losses of the canonical solutions after their prompts.

    Prompt and solution are encoded as one text, as a model would meet them; what the prompt alone encodes to equally
    is the context.
    """
    pairs = []
    for problem in problems:
        context, solution = divided(model, problem.prompt, problem.prompt + problem.solution)
        pairs.append(([*model.special.prefix, *context], solution))
    return RowScores(
        continuation_nats(model.decoder, pairs, batch_size),
        np.array([len(continuation) for _, continuation in pairs]),
        np.array([len(problem.solution.encode()) for problem in problems]),
    )


def tasks_of(measured: Measured, how: Resampling) -> list[Task]:
    """Bits per byte of each task, and the loss per token over all held-out rows."""
    tasks = []
    for task, scores in measured.scores.items():
        interval = ratio_interval(scores.nats / math.log(2), scores.bytes, how)
        tasks.append(Task.of(measured.name, task, "bits_per_byte", interval))
    text = [scores for task, scores in measured.scores.items() if task != HUMANEVAL]
    if text:
        nats = np.concatenate([scores.nats for scores in text])
        targets = np.concatenate([scores.targets for scores in text])
        tasks.append(Task.of(measured.name, "heldout", "nats_per_token", ratio_interval(nats, targets, how)))
    for own, values in measured.own.items():
        tasks.append(Task.of(measured.name, own.name, own.metric, ratio_interval(values, np.ones(len(values)), how)))
    if measured.attempts:
        tasks.append(Task.of(measured.name, HUMANEVAL, "pass@1", pass_at_k(measured.attempts, 1, how)))
    return tasks


def compare(left: Measured, right: Measured, how: Resampling) -> list[Task]:
    """Bits per byte of ``left`` less those of ``right`` on the same rows: below zero, ``left`` predicts better."""
    tasks = []
    for task in sorted(left.scores.keys() & right.scores.keys()):
        ours, theirs = left.scores[task], right.scores[task]
        interval = ratio_interval(ours.nats / math.log(2) - theirs.nats / math.log(2), ours.bytes, how)
        tasks.append(Task.of(f"{left.name} - {right.name}", task, "bits_per_byte", interval))
    for own in left.own.keys() & right.own.keys():
        same_items(own.name, {left.name: left.own[own], right.name: right.own[own]})
        interval = ratio_interval(left.own[own] - right.own[own], np.ones(len(left.own[own])), how)
        tasks.append(Task.of(f"{left.name} - {right.name}", own.name, own.metric, interval))
    return tasks


def evaluate_model(
    folder: Path,
    *,
    shards: Path | None = None,
    tokenizer: Path | None = None,
    humaneval: Path | None = None,
    max_rows: int = 64,
    items: int = 164,
    samples: int = 0,
    harness: Sequence[str] = (),
    harness_folder: Path | None = None,
    harness_limit: int | None = None,
    few_shot: int | None = None,
    chat: bool = False,
    name: str = "",
) -> dict[str, Any]:
    """Measure one model folder: ``{model, tasks: [{task, metric, value, low, high, n}], baselines: [{model, task, …}]}``.

    ``shards`` is the ``data`` folder of a shards dataset, ``tokenizer`` that of the tokenizer it was written with (needed
    for a model with another one, which reads the rows' text), ``humaneval`` a file of problems, ``harness`` tasks of
    lm-evaluation-harness, with ``few_shot`` examples and in the ``chat`` template if asked, or of another package by its dotted
    path; at least one is needed.
    """
    if shards is None and humaneval is None and not harness:
        raise InputError("there is nothing to measure on", remedy="Give a shards dataset, problems or tasks.")
    name = name or str(folder)
    tasks: list[Task] = []
    own = own_tasks([each for each in harness if reference_of(each, "tasks")])
    harness = [each for each in harness if not reference_of(each, "tasks")]
    if shards is not None or humaneval is not None or own:
        heldout = _heldout_for(folder, shards, tokenizer, humaneval, items)
        model = load_text_model(folder)
        measured = measure(name, model, heldout, max_rows=max_rows, samples=samples)
        tasks += tasks_of(replace(measured, own={task: scores_of(task, model) for task in own}), Resampling())
    if harness:
        figures = run_harness(
            folder, harness, task_folder=harness_folder, limit=harness_limit, few_shot=few_shot, chat=chat
        )
        tasks += [Task.of(name, figure.task, figure.metric, figure.interval) for figure in figures]
    found: dict[str, Any] = {"model": name, "tasks": [_without_model(asdict(task)) for task in tasks]}
    if shards is not None:
        words = heldout.writer or Tokenizer.load(folder)
        baselines = counting_baselines(heldout, shards, words, EvaluateConfig(max_rows=max_rows), Resampling())
        found["baselines"] = [asdict(task) for task in baselines]
    return found


def compare_models(
    left: Path,
    right: Path,
    *,
    shards: Path | None = None,
    tokenizer: Path | None = None,
    humaneval: Path | None = None,
    max_rows: int = 64,
    items: int = 164,
) -> dict[str, Any]:
    """Two model folders on the same rows: ``{left, right, tasks: [{task, metric, value, low, high, n}]}``.

    ``value`` is the bits per byte of ``left`` less those of ``right``; an interval below zero says that ``left``
    predicts better. A model with another tokenizer than the shards' (``tokenizer``) reads the rows' text.
    """
    measured = []
    for folder in (left, right):
        heldout = _heldout_for(folder, shards, tokenizer, humaneval, items)
        measured.append(measure(str(folder), load_text_model(folder), heldout, max_rows=max_rows))
    tasks = [asdict(task) for task in compare(measured[0], measured[1], Resampling())]
    return {"left": str(left), "right": str(right), "tasks": [_without_model(task) for task in tasks]}


def _heldout_for(
    folder: Path, shards: Path | None, tokenizer: Path | None, humaneval: Path | None, items: int
) -> Heldout:
    """What the model in ``folder`` is measured on, in its own tokens or as text."""
    heldout = open_heldout(shards, None, humaneval, items)
    if not heldout.sources:
        return heldout
    return replace(heldout, writer=rows_reader(folder, next(iter(heldout.sources.values())), tokenizer))


def _without_model(task: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in task.items() if name != "model"}


def run(request: JobRequest) -> None:
    """Measure every model, compare each with the one it was made from, and write ``evaluation.json``."""
    config = EvaluateConfig.model_validate(request.config)
    emit(request, "phase", name="evaluate")
    heldout = open_heldout(
        request.inputs["shards"].local("data"),
        Tokenizer.load(request.inputs["tokenizer"].local("data")).digest,
        local_path(config.humaneval, request.inputs) if config.humaneval else None,
        config.humaneval_items,
    )
    per_model = len(heldout.sources) + bool(heldout.problems) * (1 + bool(config.humaneval_samples)) + len(config.tasks)
    steps = len(config.models) * per_model
    done = itertools.count()
    how = Resampling(config.resamples, config.confidence, config.seed)
    own = own_tasks(config.tasks)

    def measured(name: str) -> Measured:
        folder = request.inputs[name].local("data/model")
        rows = next(iter(heldout.sources.values()))
        # A model that was tuned from one made elsewhere has another tokenizer than the shards.
        found = replace(heldout, writer=rows_reader(folder, rows, request.inputs["tokenizer"].local("data")))

        def announce(task: str) -> None:
            emit(request, "progress", done=next(done), total=steps, model=name, task=task)

        model = load_text_model(folder)
        how_much = {"max_rows": config.max_rows, "batch_size": config.batch_size, "samples": config.humaneval_samples}
        scored = measure(name, model, found, **how_much, on_task=announce)
        values = {}
        for task in own:
            announce(task.name)
            values[task] = scores_of(task, model)
        return replace(scored, own=values)

    models: dict[str, Measured] = {name: measured(name) for name in config.models}
    emit(request, "phase", name="baselines")
    words = Tokenizer.load(request.inputs["tokenizer"].local("data"))
    tasks = baseline_tasks(heldout, list(models.values()))
    tasks += counting_baselines(heldout, request.inputs["shards"].local("data"), words, config, how)
    tasks += [task for each in models.values() for task in tasks_of(each, how)]
    pairs = [(name, BEFORE[name]) for name in config.models if BEFORE.get(name) in models]
    comparisons = [task for newer, older in pairs for task in compare(models[newer], models[older], how)]
    if config.harness_tasks:
        emit(request, "phase", name="lm-evaluation-harness")
        tasks += [task for name in config.models for task in harness_tasks(request, config, name)]
    reported, reported_differences = carried_over(request)
    rows = [asdict(task) for task in [*tasks, *reported]]
    differences = [asdict(task) for task in [*comparisons, *reported_differences]]
    write_json(
        request.data_dir / "evaluation.json",
        {"models": list(config.models), "tasks": rows, "comparisons": differences},
    )
    stats = {f"{task.model}/{task.task}": task.value for task in tasks if task.metric == "bits_per_byte"}
    finish(request, {"data/evaluation.json": True}, stats, rows={"data/evaluation.json": len(rows)})


def baseline_tasks(heldout: Heldout, measured: Sequence[Measured]) -> list[Task]:
    """The unigram baseline next to the models' loss per token."""
    if heldout.unigram_nats is None or not measured:
        return []
    rows = sum(len(scores.nats) for task, scores in measured[0].scores.items() if task != HUMANEVAL)
    value = heldout.unigram_nats
    return [Task.of("unigram", "heldout", "nats_per_token", Interval(value, value, value, rows))]


def counting_baselines(
    heldout: Heldout, shards: Path, tokenizer: Tokenizer, config: EvaluateConfig, how: Resampling
) -> list[Task]:
    """Bits per byte of the 5-gram and of xz on the rows that the models are measured on."""
    rows = {source: chosen_rows(held, config.max_rows) for source, held in heldout.sources.items()}
    found = []
    if config.ngram_tokens and TRAIN in splits(shards):
        train = ShardSet.open(shards, TRAIN, tokenizer.digest)
        counted = ngram_of_shards(train, tokenizer.vocab_size, config.ngram_tokens)
        scores = {source: score_rows_by_ngram(counted, batch) for source, batch in rows.items()}
        found += tasks_of(Measured("5-gram", scores), how)
    for source, batch in rows.items():
        bits = xz_bits_per_byte(batch, tokenizer)
        found.append(Task.of("xz -9", source, "bits_per_byte", Interval(bits, bits, bits, len(batch.lengths))))
    return found


def carried_over(request: JobRequest) -> tuple[list[Task], list[Task]]:
    """Figures and comparisons that the reward model's stage and the policy's measured themselves."""
    tasks: list[Task] = []
    comparisons: list[Task] = []
    if "reward" in request.inputs:
        figures = read_json(request.inputs["reward"].local("data/reward.json"))
        tasks.append(Task.of("reward", "held-out pairs", "accuracy", Interval(**figures["accuracy"])))
    if "ppo" in request.inputs:
        reward = read_json(request.inputs["ppo"].local("data/reward_eval.json"))["reward"]
        tasks += [Task.of(name, "held-out prompts", "reward", Interval(**reward[name])) for name in ("sft", "ppo")]
        comparisons.append(Task.of("ppo - sft", "held-out prompts", "reward", Interval(**reward["gain"])))
    return tasks, comparisons


def harness_tasks(request: JobRequest, config: EvaluateConfig, name: str) -> list[Task]:
    """What lm-evaluation-harness says of one model."""
    figures = run_harness(
        request.inputs[name].local("data/model"),
        config.harness_tasks,
        task_folder=Path(config.harness_folder) if config.harness_folder else None,
        limit=config.harness_limit,
        few_shot=config.harness_few_shot,
        chat=config.harness_chat,
        batch_size=config.batch_size,
        confidence=config.confidence,
        seed=config.seed,
    )
    return [Task.of(name, figure.task, figure.metric, figure.interval) for figure in figures]


if __name__ == "__main__":
    job_main(run)
