"""The verdict over a batch: documents kept, and a ledger row with the deciding rule for every other one."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.stage import Counts
from pipeline.document import DOCUMENT_SCHEMA
from pipeline.ledger import LEDGER_SCHEMA
from pipeline.quality.config import SourceRules
from pipeline.quality.languages import KEPT, count_fates
from pipeline.quality.rules import Rule, first_failed

STAGE_NAME = "quality"
LANGUAGE, CLASSIFIER, NO_ATTRIBUTES = "language", "classifier", "no_attributes"


@dataclass(frozen=True)
class Selection:
    """What the documents of one source must meet: the language first, then the rules in order, the classifier last."""

    languages: tuple[str, ...]
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, source: SourceRules, classifier: float | None) -> "Selection":
        rules = source.rules()
        if source.languages:
            rules = (Rule("language_score", "language_score", "at_least", source.language_score), *rules)
        if classifier is not None:
            rules = (*rules, Rule(CLASSIFIER, "quality", "at_least", classifier))
        return cls(source.languages, rules)

    def foreign(self, attributes: pa.RecordBatch | pa.Table) -> NDArray[np.bool_]:
        """Documents in none of the languages that are kept."""
        if not self.languages:
            return np.zeros(attributes.num_rows, np.bool_)
        return ~np.asarray(pc.is_in(attributes.column("language"), pa.array(self.languages, pa.string())), np.bool_)

    def passed(self, attributes: pa.RecordBatch | pa.Table) -> NDArray[np.bool_]:
        """Documents that meet everything."""
        passed: NDArray[np.bool_] = first_failed(self.rules, attributes) == len(self.rules)
        return passed & ~self.foreign(attributes)


@dataclass(frozen=True)
class Verdict:
    """What became of a batch; ``by_language``: how often what became of documents in a language, see ``languages.py``."""

    kept: pa.Table
    ledger: pa.Table
    counts: Counts
    by_language: Counter[str]


def select(documents: pa.RecordBatch, attributes: pa.Table, selection: Selection) -> Verdict:
    """Split a batch; the kept documents get their language and classifier score."""
    foreign = selection.foreign(attributes)
    failed = first_failed(selection.rules, attributes)
    dropped = [(np.flatnonzero(foreign), Rule(LANGUAGE, "language_score", "at_least", 0.0))]
    for index, rule in enumerate(selection.rules):
        dropped.append((np.flatnonzero((failed == index) & ~foreign), rule))
    kept = np.flatnonzero(~foreign & (failed == len(selection.rules)))

    ledger = pa.concat_tables([_ledger_rows(documents, attributes, rows, rule) for rows, rule in dropped])
    order = np.argsort(np.concatenate([rows for rows, _ in dropped]), kind="stable")
    counts = Counts(
        incoming=documents.num_rows,
        kept=len(kept),
        dropped={rule.name: len(rows) for rows, rule in dropped if len(rows)},
    )
    names = np.array([*(rule.name for rule in selection.rules), KEPT])[failed]
    by_language = count_fates(attributes.column("language").to_pylist(), np.where(foreign, LANGUAGE, names).tolist())
    return Verdict(_kept_documents(documents, attributes, kept), ledger.take(order), counts, by_language)


def unmeasured(documents: pa.RecordBatch) -> Verdict:
    """Documents whose attributes could not be computed: failed, not dropped."""
    rows = documents.num_rows
    ledger = _fates(documents, NO_ATTRIBUTES, "failed", detail=pa.array(["the file could not be measured"] * rows))
    return Verdict(DOCUMENT_SCHEMA.empty_table(), ledger, Counts(incoming=rows, failed=rows), Counter())


def _kept_documents(documents: pa.RecordBatch, attributes: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    table = pa.Table.from_batches([documents]).select(DOCUMENT_SCHEMA.names)
    for name in ("language", "quality"):
        field = DOCUMENT_SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, attributes.column(name).cast(field.type))
    return table.take(rows).cast(DOCUMENT_SCHEMA)


def _ledger_rows(documents: pa.RecordBatch, attributes: pa.Table, rows: NDArray[np.int64], rule: Rule) -> pa.Table:
    taken, measured = documents.take(pa.array(rows)), attributes.take(rows)
    score = measured.column(rule.attribute).cast(pa.float64())
    if rule.name == LANGUAGE:  # not a threshold: say what it is instead
        return _fates(taken, rule.name, "dropped", score=score, detail=measured.column("language"))
    threshold = pa.array([rule.threshold] * len(rows), pa.float64())
    return _fates(taken, rule.name, "dropped", score=score, threshold=threshold)


def _fates(documents: pa.RecordBatch, rule: str, verdict: str, **columns: pa.Array | pa.ChunkedArray) -> pa.Table:
    rows = documents.num_rows
    given = {
        "id": documents.column("id"),
        "url": documents.column("url"),
        "source": documents.column("source"),
        "stage": pa.array([STAGE_NAME] * rows, pa.string()),
        "verdict": pa.array([verdict] * rows, pa.string()),
        "rule": pa.array([rule] * rows, pa.string()),
        **columns,
    }
    return pa.table(
        [given.get(field.name, pa.nulls(rows, field.type)) for field in LEDGER_SCHEMA], schema=LEDGER_SCHEMA
    )
