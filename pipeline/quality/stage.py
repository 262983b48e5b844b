"""Selection: which documents are kept, by thresholds over their attributes.

    score    only for sources with a ``keep_fraction``: the classifier scores of the documents that pass every rule, as
             one small histogram a file
    select   reads documents and attributes side by side; the first rule that a document fails decides, and the ledger
             names it with the document's score and the threshold

A ``keep_fraction`` becomes a threshold by the quantile of all those histograms together: the same whatever the order of
files or the number of workers, and memory does not grow with the number of documents.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import InputError
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.cache import local_file
from infra.store.dataset import Dataset
from pipeline.document import read_batches
from pipeline.drop_rates import BY_SOURCE, counts_by_source
from pipeline.ledger import documents_and_fates
from pipeline.profiles import source_of
from pipeline.quality.config import QualityConfig, rules_for
from pipeline.quality.histogram import add_histograms, score_histogram, threshold_for
from pipeline.quality.languages import lost_languages
from pipeline.quality.rules import check_attributes
from pipeline.quality.select import Criteria, select, unmeasured

BATCH_ROWS = 1024


def inputs(config: QualityConfig) -> Mapping[str, str]:
    return {"ingest": "ingest", "attributes": "attributes"}


# ---- step 1: scores of what passes the rules ---------------------------------------------------------------------


def score_units(context: StageContext) -> Iterable[Unit]:
    attributes = {file.path: file for file in context.inputs["attributes"].files(suffix=".parquet")}
    _check_rules(context.config, context.inputs["attributes"], list(attributes))
    for path, file in attributes.items():
        if rules_for(context.config, source_of(path)).keep_fraction is not None:
            yield unit_of_files(unit_id(path, file.digest), {"path": path}, [file], counted=False)


def _check_rules(config: QualityConfig, measured: Dataset, paths: list[str]) -> None:
    """What rules look at has been measured, by the attributes' own word: known before any work is done."""
    if not paths:
        return
    known = pq.read_schema(local_file(measured.url(paths[0])))
    for source in dict.fromkeys(map(source_of, paths)):
        check_attributes(rules_for(config, source).all_rules(), known, "quality.sources")


def score_process(unit: Unit, context: UnitContext) -> Counts:
    path = str(unit.payload["path"])
    criteria = Criteria.of(rules_for(context.config, source_of(path)), None)
    scores = [np.zeros(0, np.float32)]
    for attributes in read_batches(context.inputs["attributes"].url(path), batch_rows=BATCH_ROWS):
        scores.append(attributes.column("quality").to_numpy(zero_copy_only=False)[criteria.passed(attributes)])
    with context.intermediate(path) as target:
        pq.write_table(score_histogram(source_of(path), np.concatenate(scores)), target)
    return Counts()


def thresholds_by_source(context: StageContext) -> dict[str, float]:
    """The classifier's threshold of every source with a ``keep_fraction``."""
    totals = add_histograms(pq.read_table(local_file(address)) for address in context.step_files("score"))
    found = {}
    for source, histogram in totals.items():
        fraction = rules_for(context.config, source).keep_fraction
        if fraction is not None:
            found[source] = threshold_for(histogram, fraction)
    return found


# ---- step 2: selection -------------------------------------------------------------------------------------------


def select_units(context: StageContext) -> Iterable[Unit]:
    thresholds = thresholds_by_source(context)
    measured = {file.path: file.digest for file in context.inputs["attributes"].files(suffix=".parquet")}
    for file in context.inputs["ingest"].files(suffix=".parquet"):
        source = source_of(file.path)
        rules_for(context.config, source)
        yield unit_of_files(
            unit_id(file.path, file.digest, measured.get(file.path)),
            {"path": file.path, "classifier": thresholds.get(source), "measured": file.path in measured},
            [file],
        )


def select_process(unit: Unit, context: UnitContext) -> Counts:
    path = str(unit.payload["path"])
    classifier = unit.payload["classifier"]
    criteria = Criteria.of(
        rules_for(context.config, source_of(path)), classifier if isinstance(classifier, float) else None
    )
    by_language = Counter[str]()
    with documents_and_fates(context, path.removeprefix("data/"), level=1, ledger_level=1) as file:
        for documents, attributes in _side_by_side(context.inputs, path, bool(unit.payload["measured"])):
            part = unmeasured(documents) if attributes is None else select(documents, attributes, criteria)
            file.keep(part.kept)
            file.lose(part.fates)
            by_language += part.by_language
    context.metrics |= {name: float(number) for name, number in sorted(by_language.items())}
    return file.counts


def _side_by_side(
    inputs: Mapping[str, Dataset], path: str, measured: bool
) -> Iterator[tuple[pa.RecordBatch, pa.Table | None]]:
    """Batches of documents with their attributes; None where the unit that measures them failed."""
    attributes = None
    if measured:
        tables = list(read_batches(inputs["attributes"].url(path)))
        attributes = pa.Table.from_batches(tables) if tables else None
    mismatch = InputError(
        "attributes and documents do not have the same rows",
        where=inputs["attributes"].url(path),
        remedy="Run the stage attributes again with --force.",
    )
    start = 0
    for documents in read_batches(inputs["ingest"].url(path), batch_rows=BATCH_ROWS):
        rows = attributes.slice(start, documents.num_rows) if attributes is not None else None
        if rows is not None and not rows.column("id").combine_chunks().equals(documents.column("id")):
            raise mismatch
        yield documents, rows
        start += documents.num_rows
    if attributes is not None and start != attributes.num_rows:
        raise mismatch


def finalize(context: StageContext) -> None:
    context.stats["classifier_thresholds"] = thresholds_by_source(context)
    context.stats[BY_SOURCE] = counts_by_source(context.receipts["select"])
    context.warnings += lost_languages(context.receipts["select"])


STAGE = ShardStage(
    name="quality",
    code_version=1,
    config=QualityConfig,
    reference="pipeline.quality:STAGE",
    inputs=inputs,
    steps=(Step("score", score_units, score_process), Step("select", select_units, select_process)),
    finalize=finalize,
    consumes="ingest",
    ledgered=True,
    description="Keep the documents that pass the rules of their source.",
)
