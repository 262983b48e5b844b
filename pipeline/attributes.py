"""Attributes: what is known about each document, as numbers beside it.

For every file of ``ingest`` one Parquet file of the same name, with the same rows in the same order: ``id``, language,
the classifier's score and every measure of ``pipeline.quality.measures``. Nothing is decided here. Which documents are
kept is a matter of thresholds (stage ``quality``), and changing one never computes an attribute again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import field_validator

from infra.config import Config, Json, Later
from infra.extensions import load
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.address import dataset_inputs
from pipeline.document import DOCUMENT_SCHEMA, read_batches
from pipeline.language import LanguageConfig, LanguageDetector, language_external, open_detector

if TYPE_CHECKING:
    from pipeline.classifier.model import QualityModel

COLUMNS = ["id", "text", "language", "programming_language"]
BATCH_ROWS = 256
BATCH_BYTES = 16 << 20
"""Attributes are computed for this much text at once; the values do not depend on it."""


class AttributesConfig(Config):
    """What is measured."""

    language: LanguageConfig = LanguageConfig()
    """Language identification."""
    measures: Annotated[tuple[str, ...], Later()] = ()
    """Measures of other packages beside ours, by dotted path or by the name under which an installed package offers them."""

    @field_validator("measures")
    @classmethod
    def _are_there(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        from pipeline.quality.measures import Measures

        for each in given:
            load(each, "measures", Measures)
        return given


def inputs(config: AttributesConfig) -> Mapping[str, str]:
    return {"ingest": "ingest", "classifier": "classifier", **dataset_inputs([config.language.model])}


def external(config: AttributesConfig) -> Json:
    return {**language_external(config.language)}


def units(context: StageContext) -> Iterable[Unit]:
    for file in context.inputs["ingest"].files(suffix=".parquet"):
        yield unit_of_files(unit_id(file.path, file.digest), {"path": file.path}, [file])


def process(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.classifier.model import QualityModel

    path = str(unit.payload["path"])
    detector = open_detector(context.config.language, context.inputs, context.scratch)
    model = QualityModel.open(context.inputs["classifier"], context.scratch) if "classifier" in context.inputs else None
    rows = 0
    with context.output(path) as target:
        writer: pq.ParquetWriter | None = None
        for batch in read_batches(context.inputs["ingest"].url(path), COLUMNS, BATCH_ROWS, BATCH_BYTES):
            table = attribute_table(batch, detector, model, context.config.measures)
            writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
        if writer is None:
            writer = pq.ParquetWriter(
                target, attribute_table(_no_documents(), detector, model, context.config.measures).schema
            )
        writer.close()
    return Counts(incoming=rows, kept=rows)


def _no_documents() -> pa.RecordBatch:
    schema = pa.schema([DOCUMENT_SCHEMA.field(name) for name in COLUMNS])
    return pa.RecordBatch.from_pylist([], schema)


def attribute_table(
    batch: pa.RecordBatch, detector: LanguageDetector, model: "QualityModel | None", others: Sequence[str] = ()
) -> pa.Table:
    """Every attribute of a batch of documents (with ``COLUMNS``); no score without a classifier."""
    from pipeline.quality.measures import measure_texts, prose

    texts = batch.column("text").to_pylist()
    programming = batch.column("programming_language").to_pylist()
    languages, language_scores = declared_or_detected(
        prose(texts, programming), batch.column("language").to_pylist(), programming, detector
    )
    measures = measure_texts(batch.column("text"), languages, programming, others)
    scores = model.score(texts) if model is not None else [None] * batch.num_rows
    return pa.table(
        {
            "id": batch.column("id"),
            "language": pa.array(languages, pa.string()),
            "language_score": pa.array(language_scores, pa.float32()),
            "quality": pa.array(scores, pa.float32()),
            **{name: measures[name] for name in measures.column_names},
        }
    )


def declared_or_detected(
    texts: Sequence[str],
    declared: Sequence[str | None],
    programming: Sequence[str | None],
    detector: LanguageDetector,
) -> tuple[list[str | None], list[float | None]]:
    """What the source says (a Wikipedia knows its language), else what is detected; nothing for source code."""
    languages: list[str | None] = []
    scores: list[float | None] = []
    for known, code, (label, score) in zip(declared, programming, detector.detect(texts), strict=True):
        languages.append(known if known or code else label)
        scores.append(1.0 if known else None if code else score)
    return languages, scores


STAGE = ShardStage(
    name="attributes",
    code_version=5,
    config=AttributesConfig,
    reference="pipeline.attributes:STAGE",
    inputs=inputs,
    steps=(Step("measure", units, process),),
    external=external,
    consumes="ingest",
    optional=("classifier",),
    description="Measure every document: language, classifier score, and what the rules look at.",
)
