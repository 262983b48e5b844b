"""Where everything came from: the graph of datasets, what each cost, and with what it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from flows.provenance.drop_rates import recipe_of
from flows.report.graph import Node, lineage_graph
from flows.stages import in_order
from infra.store.dataset import Dataset

KINDS = {"document": 0, "model": 1, "figure": 2}
MODEL_STAGES = ("pretrain", "sft", "preferences", "reward", "ppo", "dpo", "grpo", "export")


@dataclass(frozen=True)
class DatasetRow:
    """A dataset in the table of origins."""

    name: str
    fingerprint: str
    digest: str
    inputs: list[str]
    rows: int
    bytes: int
    seconds: float
    config: dict[str, object]


def graph(datasets: Mapping[str, Dataset]) -> Markup:
    """The lineage as a drawing."""
    nodes = [
        Node(
            dataset.name,
            dataset.manifest.fingerprint,
            [record.name for record in dataset.manifest.inputs],
            _kind(dataset.name),
        )
        for dataset in in_order(datasets.values())
    ]
    return lineage_graph(nodes)


def _kind(name: str) -> int:
    if name in MODEL_STAGES:
        return KINDS["model"]
    return KINDS["figure"] if name in ("answers", "evaluate", "classifier", "tokenizer") else KINDS["document"]


def dataset_rows(datasets: Mapping[str, Dataset]) -> list[DatasetRow]:
    return [
        DatasetRow(
            dataset.name,
            dataset.manifest.fingerprint,
            dataset.digest,
            [f"{record.name}/{record.fingerprint}" for record in dataset.manifest.inputs],
            dataset.manifest.rows,
            dataset.manifest.bytes,
            seconds_of(dataset),
            dict(dataset.manifest.config),
        )
        for dataset in in_order(datasets.values())
    ]


def seconds_of(dataset: Dataset) -> float:
    """How long the stage took."""
    made = dataset.manifest.provenance
    return max(0.0, made.ended - made.started)


@dataclass(frozen=True)
class RunFacts:
    """With what the newest of the datasets was made."""

    recipe: str
    run: str
    finished: str
    commit: str
    dirty: bool
    host: str
    python: str
    packages: dict[str, str]


def run_facts(datasets: Mapping[str, Dataset]) -> RunFacts | None:
    """From the newest dataset's provenance; None without datasets."""
    if not datasets:
        return None
    newest = max(datasets.values(), key=lambda dataset: dataset.manifest.provenance.ended)
    made = newest.manifest.provenance
    finished = datetime.fromtimestamp(made.ended, UTC).strftime("%Y-%m-%d %H:%M UTC") if made.ended else ""
    return RunFacts(
        recipe_of(newest),
        made.run,
        finished,
        made.git_commit,
        made.git_dirty,
        made.host,
        made.python,
        dict(made.packages),
    )
