"""Ours: archives to quality-filtered documents by the real stages and the real runner, two workers.

``python -m tests.benchmarks.data_parts.ours ARCHIVES WORKSPACE LANGUAGE_MODEL LANGUAGES STAGES CLASSIFIER``
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import pipeline.attributes
import pipeline.ingest
import pipeline.quality
from infra.execution.base import Executor
from infra.execution.local import LocalExecutor
from infra.launch.local import LocalLauncher
from infra.progress import PlainReporter
from infra.runner import run_stage
from infra.runs import RunRecord
from infra.stage import Stage, StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from pipeline.attributes import AttributesConfig
from pipeline.classifier.config import ClassifierConfig
from pipeline.extract.page import ExtractConfig
from pipeline.ingest import IngestConfig
from pipeline.language import LanguageConfig
from pipeline.quality.config import WEB_PRESETS, QualityConfig, SourceRules
from tests.support import source_config, write_dataset

WORKERS = 2
# Shorter pages cannot have the fifty words of three letters that the rules ask for.
LEAST_CHARACTERS = 199


def main(archives: str, workspace: str, model: str, languages: str, last: str, classifier: str) -> None:
    executor = LocalExecutor(workers=WORKERS)
    answer = data_path(archives, workspace, model, languages, last, executor, Path(classifier))
    sys.stdout.write(json.dumps(answer) + "\n")


def data_path(
    archives: str,
    workspace: str,
    model: str,
    languages: str,
    last: str,
    executor: Executor,
    classifier: Path | None = None,
) -> dict[str, Any]:
    """Archives to filtered documents: seconds by stage, counts, and what was kept. ``classifier``: its model, if trained."""
    wanted = tuple(languages.split(",")) if languages else ()
    ingest = IngestConfig(
        sources=(source_config(name="web", kind="warc", address=f"{archives}/*.warc.gz"),),
        extract=ExtractConfig(languages=wanted, min_characters=LEAST_CHARACTERS),
        language_model=model,
    )
    attributes = AttributesConfig(language=LanguageConfig(model=model))
    quality = QualityConfig(sources=(SourceRules(source="*", languages=wanted, presets=WEB_PRESETS),))
    scorer = _classifier(Path(workspace), classifier)
    store = Store.at(Path(workspace))
    run = RunContext(
        store=store,
        record=RunRecord.start(store, "bench"),
        label="bench",
        executor=executor,
        launcher=LocalLauncher(),
        reporter=PlainReporter(every_s=3600.0),
    )
    found: dict[str, Dataset] = {"classifier": scorer}
    seconds: dict[str, float] = {}
    plan: list[tuple[Stage, object, tuple[str, ...]]] = [
        (pipeline.ingest.STAGE, ingest, ()),
        (pipeline.attributes.STAGE, attributes, ("ingest", "classifier")),
        (pipeline.quality.STAGE, quality, ("ingest", "attributes")),
    ]
    for stage, config, roles in plan:
        started = time.perf_counter()
        inputs = {role: found[role] for role in roles}
        found[stage.name] = run_stage(StageNode(stage, config), inputs, run).dataset  # type: ignore[arg-type]
        seconds[stage.name] = time.perf_counter() - started
        if stage.name == last:
            break
    counts = found["ingest"].manifest.counts
    return {
        "seconds": sum(seconds.values()),
        "stages": seconds,
        "pages": counts.incoming,
        "extracted": counts.kept,
        "dropped": dict(counts.dropped),
        "documents": found[last].manifest.counts.kept,
        "kept": _urls(found[last]),
        "digest": found[last].digest,
    }


def _classifier(workspace: Path, trained: Path | None) -> Dataset:
    model = trained or train_stand_in(workspace)
    return write_dataset(workspace / "classifier", "classifier", {"data/quality.bin": model.read_bytes()})


def train_stand_in(folder: Path) -> Path:
    """The stage scores every document; a model of the product's size, trained on next to nothing, stands for a trained
    one (which is another benchmark's matter)."""
    import fasttext

    folder.mkdir(parents=True, exist_ok=True)
    lines, model = folder / "lines.txt", folder / "quality.bin"
    good, ordinary = "__label__good the study of rivers and their towns", "__label__ordinary click here to buy now"
    lines.write_text(f"{good}\n{ordinary}\n" * 200)
    size = ClassifierConfig()
    fasttext.train_supervised(
        str(lines), wordNgrams=2, dim=size.dimension, bucket=size.buckets, epoch=5, thread=1, verbose=0
    ).save_model(str(model))
    return model


def _urls(dataset: Dataset) -> list[str]:
    return [
        url
        for file in dataset.files(suffix=".parquet")
        for url in pq.read_table(dataset.local(file.path), columns=["url"])["url"].to_pylist()
    ]


if __name__ == "__main__":
    main(*sys.argv[1:7])
