"""What the models learnt: curves and figures read from the files that the training and alignment stages publish."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from markupsafe import Markup

from flows.provenance.samples import kept_samples
from infra.store.dataset import Dataset
from pipeline.charts import REST, Level, Line, Point, interval_bar, line_chart, smooth

Row = dict[str, Any]
METRICS_FILE = "data/metrics.jsonl"
PAIRS = "data/pairs.parquet"
MOST_LINES = 20_000


def read_lines(path: Path, most: int = MOST_LINES) -> list[Row]:
    """The figures of each step; none where the file does not exist.

    Of a long training about ``most`` steps, evenly chosen, with all that were refused and all lines that are no steps
    (measurements on held-out text): memory does not grow with the run.
    """
    return [json.loads(line) for line in thinned(path, most) if line.strip()] if path.exists() else []


def thinned(path: Path, most: int) -> list[bytes]:
    """About so many steps' lines, evenly chosen, with all that were refused and all that are no steps."""
    with path.open("rb") as stream:
        stride = max(1, math.ceil(sum(1 for _ in stream) / most))
        stream.seek(0)
        return [
            line
            for number, line in enumerate(stream)
            if number % stride == 0 or b'"held"' in line or b'"tokens"' not in line
        ]


def curve(lines: Sequence[Row], key: str) -> list[Point]:
    return [(line["step"], line[key]) for line in lines if isinstance(line.get(key), (int, float))]


def metrics_of(dataset: Dataset) -> list[Row]:
    """The figures of each step; none where the stage records none."""
    recorded = any(output.path == METRICS_FILE for output in dataset.manifest.outputs)
    return read_lines(dataset.local(METRICS_FILE)) if recorded else []


def read_json_if(dataset: Dataset | None, path: str) -> Any:
    """A JSON file of a dataset; None where either is missing."""
    if dataset is None or not any(output.path == path for output in dataset.manifest.outputs):
        return None
    return json.loads(dataset.local(path).read_text())


def first_rows(path: Path, number: int) -> list[dict[str, Any]]:
    """The first rows of a Parquet file."""
    rows: list[dict[str, Any]] = next(pq.ParquetFile(path).iter_batches(max(1, number))).to_pylist()
    return rows[:number]


# ---- pretraining ----------------------------------------------------------------------------------------------------


Others = Sequence[tuple[str, Dataset]]
"""Other runs' datasets of the same stage, by a name for the legend: they share the axes."""
MEASURES = (
    ("lr", "learning rate", "Learning rate"),
    ("grad_norm", "norm of the gradient", "Gradient norm"),
    ("tokens_per_s", "tokens a second", "Throughput"),
)
NOISY = 30
"""A line of more points is drawn smoothed, over its own faint trace."""


def loss_chart(lines: Sequence[Row], entropy: float | None, others: Others = ()) -> Markup:
    """Training loss by step, in nats a token, with the entropy of single words as a level to beat."""
    levels = [Level(f"unigram entropy {entropy:.2f}", entropy)] if entropy is not None else []
    series = [*_smoothed("training loss", curve(lines, "loss"), "m0"), *_of_others(others, "loss")]
    return line_chart(series, x="step", y="nats per token", describe="Training loss by step", levels=levels)


def course_charts(lines: Sequence[Row], others: Others = ()) -> list[tuple[str, Markup]]:
    """How the training went: rate, gradient norm with the steps that were not applied, throughput; what was recorded."""
    found = []
    for key, y, title in MEASURES:
        points = curve(lines, key)
        series = _smoothed(y, points, "m0") if key != "lr" else [Line(y, points, "m0")]
        held = [(line["step"], line[key]) for line in lines if line.get("held") and isinstance(line.get(key), float)]
        if key == "grad_norm" and held:
            series.append(Line("not applied", held, "bad", dots=True, scattered=True))
        if points:
            series += _of_others(others, key)
        chart = line_chart(series, x="step", y=y, describe=f"{title} by step")
        if chart:
            found.append((title, chart))
    return found


def validation_chart(lines: Sequence[Row], colours: Mapping[str, str], others: Others = ()) -> Markup:
    """Curves by source, of other runs dashed; empty where there was only one measurement, which needs no drawing."""
    names = sorted({key for line in lines for key in line if key.startswith("bits_per_byte/")})
    series = []
    for name in names:
        source = name.partition("/")[2]
        series.append(Line(source, curve(lines, name), colours.get(source, REST), dots=True))
    if max((len(each.points) for each in series), default=0) < 2:
        return Markup("")
    for run, dataset in others:
        past = metrics_of(dataset)
        series += [
            replace(each, name=f"{each.name} ({run})", points=curve(past, name), dots=False, dashed=True)
            for name, each in zip(names, series[: len(names)], strict=True)
        ]
    return line_chart(series, x="step", y="bits per byte", describe="Bits per byte of held-out text by source")


def _smoothed(name: str, points: Sequence[Point], colour: str) -> list[Line]:
    if len(points) <= NOISY:
        return [Line(name, points, colour, dots=True)]
    return [Line(f"{name} of the step", points, colour, faint=True), Line(name, smooth(points), colour)]


def _of_others(others: Others, key: str) -> list[Line]:
    found = []
    for index, (name, dataset) in enumerate(others):
        points = curve(metrics_of(dataset), key)
        points = smooth(points) if len(points) > NOISY and key != "lr" else points
        found.append(Line(name, points, f"m{2 + index % 3}", dashed=True))
    return found


# ---- alignment ------------------------------------------------------------------------------------------------------


def training_chart(
    dataset: Dataset, keys: Sequence[tuple[str, str]], y: str, describe: str, others: Others = ()
) -> Markup:
    """Curves of some figures, noisy ones smoothed over their own trace; of other runs the first of them."""
    lines = metrics_of(dataset)
    series: list[Line] = []
    for index, (key, name) in enumerate(keys):
        series += _smoothed(name, curve(lines, key), f"m{index % 2}")
    series += _of_others(others, keys[0][0]) if any(each.points for each in series) else []
    return line_chart(series, x="step", y=y, describe=describe)


@dataclass(frozen=True)
class PairSample:
    """A prompt with the human's reply and the model's own."""

    prompt: str
    chosen: str
    rejected: str


def preference_samples(preferences: Dataset, number: int) -> list[PairSample]:
    """Pairs drawn at random, always the same ones."""
    rows = kept_samples(preferences, number, PAIRS)
    return [PairSample(_last_words(row["prompt"]), row["chosen"], row["rejected"]) for row in rows]


def _last_words(prompt: str) -> str:
    messages = json.loads(prompt)
    return str(messages[-1]["content"]) if messages else ""


# ---- evaluation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskRow:
    """One row of the evaluation, with its drawing."""

    model: str
    value: float
    low: float
    high: float
    n: int
    bar: Markup


@dataclass(frozen=True)
class TaskTable:
    """All models on one task."""

    task: str
    metric: str
    rows: list[TaskRow]


METRICS = {
    "bits_per_byte": "bits per byte, lower is better",
    "nats_per_token": "nats per token, lower is better",
    "accuracy": "accuracy",
    "reward": "reward, higher is better",
}


def task_tables(rows: Iterable[Mapping[str, Any]], mark: float | None = None) -> list[TaskTable]:
    """Rows grouped by task; the intervals of one task share a scale."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["metric"]), []).append(row)
    return [_task_table(task, metric, group, mark) for (task, metric), group in groups.items()]


def _task_table(task: str, metric: str, group: Sequence[Mapping[str, Any]], mark: float | None) -> TaskTable:
    if metric == "accuracy":
        mark, span = 0.5, (0.0, 1.0)
    else:
        ends = [row[key] for row in group for key in ("low", "high", "value")] + ([mark] if mark is not None else [])
        gap = (max(ends) - min(ends)) * 0.08 or abs(max(ends)) * 0.1 or 1.0
        span = (min(ends) - gap, max(ends) + gap)
    measured = [
        TaskRow(
            row["model"], row["value"], row["low"], row["high"], row["n"],
            interval_bar(row["value"], row["low"], row["high"], span, mark),
        )
        for row in group
    ]  # fmt: skip
    return TaskTable(task, METRICS.get(metric, metric.replace("_", " ")), measured)
