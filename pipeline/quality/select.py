"""The verdict over a batch: documents kept, and a ledger row with the deciding rule for every other one."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.document import DOCUMENT_SCHEMA
from pipeline.ledger import fates_table
from pipeline.quality.config import SourceRules
from pipeline.quality.languages import KEPT, count_fates
from pipeline.quality.rules import AnyRule, Expression, Rule, first_failed

STAGE_NAME = "quality"
LANGUAGE, CLASSIFIER, NO_ATTRIBUTES = "language", "classifier", "no_attributes"


@dataclass(frozen=True)
class Criteria:
    """What the documents of one source must meet: the language first, then the rules in order, the classifier last."""

    languages: tuple[str, ...]
    rules: tuple[AnyRule, ...]

    @classmethod
    def of(cls, source: SourceRules, classifier: float | None) -> "Criteria":
        rules = source.all_rules()
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
class Selected:
    """What became of a batch; ``by_language``: how often what became of documents in a language, see ``languages.py``."""

    kept: pa.Table
    fates: pa.Table
    by_language: Counter[str]


def select(documents: pa.RecordBatch, attributes: pa.Table, criteria: Criteria) -> Selected:
    """Split a batch; the kept documents get their language and classifier score."""
    foreign = criteria.foreign(attributes)
    failed = first_failed(criteria.rules, attributes)
    dropped: list[tuple[NDArray[np.int64], AnyRule]] = [
        (np.flatnonzero(foreign), Rule(LANGUAGE, "language_score", "at_least", 0.0))
    ]
    for index, rule in enumerate(criteria.rules):
        dropped.append((np.flatnonzero((failed == index) & ~foreign), rule))
    kept = np.flatnonzero(~foreign & (failed == len(criteria.rules)))

    ledger = pa.concat_tables([_dropped(documents, attributes, rows, rule) for rows, rule in dropped])
    order = np.argsort(np.concatenate([rows for rows, _ in dropped]), kind="stable")
    names = np.array([*(rule.name for rule in criteria.rules), KEPT])[failed]
    by_language = count_fates(attributes.column("language").to_pylist(), np.where(foreign, LANGUAGE, names).tolist())
    return Selected(_kept_documents(documents, attributes, kept), ledger.take(order), by_language)


def unmeasured(documents: pa.RecordBatch) -> Selected:
    """Documents whose attributes could not be computed: failed, not dropped."""
    failed = fates_table(documents, STAGE_NAME, "failed", rule=NO_ATTRIBUTES, detail="the file could not be measured")
    return Selected(DOCUMENT_SCHEMA.empty_table(), failed, Counter())


def _kept_documents(documents: pa.RecordBatch, attributes: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    table = pa.Table.from_batches([documents]).select(DOCUMENT_SCHEMA.names)
    for name in ("language", "quality"):
        field = DOCUMENT_SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, attributes.column(name).cast(field.type))
    return table.take(rows).cast(DOCUMENT_SCHEMA)


def _dropped(documents: pa.RecordBatch, attributes: pa.Table, rows: NDArray[np.int64], rule: AnyRule) -> pa.Table:
    taken, measured = documents.take(pa.array(rows)), attributes.take(rows)
    if isinstance(rule, Expression):
        return _unmet(taken, measured, rule)
    score = measured.column(rule.attribute).cast(pa.float64())
    if rule.name == LANGUAGE:  # not a threshold: say what it is instead
        return fates_table(taken, STAGE_NAME, "dropped", rule=LANGUAGE, score=score, detail=measured.column("language"))
    return fates_table(taken, STAGE_NAME, "dropped", rule=rule.name, score=score, threshold=rule.threshold)


def _unmet(documents: pa.RecordBatch, measured: pa.Table, rule: Expression) -> pa.Table:
    """Rows with the expression, and with the value it looked at where that is one number."""
    score = measured.column(rule.attribute) if rule.attribute else None
    if score is not None:
        score = None if pa.types.is_string(score.type) else score.cast(pa.float64())
    return fates_table(
        documents, STAGE_NAME, "dropped", rule=rule.name, score=score, threshold=rule.threshold, detail=rule.expression
    )
