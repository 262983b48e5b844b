"""The ledger: the fate of every record that does not go on.

One Parquet file beside each data file (``ledger/<same path>``), one row for each record dropped or failed. Records that
are kept have no row here: they are in the stage's data. Together they account for every record a stage received.

``fate`` makes a row, ``fates_table`` those of a batch of documents; ``documents_and_fates`` opens both files of a unit and
counts what goes into them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
from typing_extensions import Unpack

from infra.stage import Counts, UnitContext
from pipeline.document import DOCUMENT_SCHEMA, Document, RowWriter

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("url", pa.string()),
        pa.field("source", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("survivor_id", pa.binary(16)),
        pa.field("detail", pa.string()),
    ],
    metadata={"headwater.ledger": "1"},
)

Verdict = Literal["kept", "dropped", "failed"]


class Fate(TypedDict):
    """One ledger row. ``rule`` names what decided (``gopher_word_count``, ``near_duplicate``, ``extraction_timeout``);
    ``survivor_id`` names the document kept in its place; ``detail`` is one short human sentence or locates the bytes."""

    id: bytes
    stage: str
    verdict: Verdict
    rule: str
    url: NotRequired[str | None]
    source: NotRequired[str | None]
    score: NotRequired[float | None]
    threshold: NotRequired[float | None]
    survivor_id: NotRequired[bytes | None]
    detail: NotRequired[str | None]


class Reasons(TypedDict, total=False):
    """What a row may say beside what decided."""

    score: float | None
    threshold: float | None
    survivor_id: bytes | None
    detail: str | None


def fate(
    stage: str, verdict: Verdict, rule: str, id: bytes, url: str | None, source: str | None, **why: Unpack[Reasons]
) -> Fate:
    """The row of one record."""
    return {
        "id": id,
        "url": url,
        "source": source,
        "stage": stage,
        "verdict": verdict,
        "rule": rule,
        "score": why.get("score"),
        "threshold": why.get("threshold"),
        "survivor_id": why.get("survivor_id"),
        "detail": why.get("detail") or None,
    }


def fates_table(documents: pa.RecordBatch | pa.Table, stage: str, verdict: Verdict, **columns: Any) -> pa.Table:
    """The rows of some documents; each of ``rule``, ``score``, … is one value for all of them, or a column."""
    given = {"stage": stage, "verdict": verdict, **columns}
    given |= {name: documents.column(name) for name in ("id", "url", "source")}
    arrays = [_column(given.get(field.name), field.type, documents.num_rows) for field in LEDGER_SCHEMA]
    return pa.table(arrays, schema=LEDGER_SCHEMA)


def _column(value: Any, kind: pa.DataType, rows: int) -> pa.Array | pa.ChunkedArray:
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return value
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes)):
        return pa.array(value, kind)
    return pa.repeat(pa.scalar(value, kind), rows)


class DocumentFile:
    """One file of documents on its way through a stage: what is kept of it, and the fate of all else, counted."""

    def __init__(self, documents: RowWriter, ledger: RowWriter) -> None:
        self._documents, self._ledger = documents, ledger
        self._dropped: Counter[str] = Counter()
        self._failed = 0

    def keep(self, documents: pa.Table | pa.RecordBatch | Document) -> None:
        if isinstance(documents, pa.RecordBatch):
            documents = pa.Table.from_batches([documents])
        if isinstance(documents, pa.Table):
            self._documents.write_table(documents)
        else:
            self._documents.write(documents)

    def lose(self, rows: pa.Table | Fate) -> None:
        if not isinstance(rows, pa.Table):
            self._ledger.write(rows)
            self._count(rows["verdict"], rows["rule"], 1)
            return
        self._ledger.write_table(rows)
        for group in rows.group_by(["verdict", "rule"]).aggregate([([], "count_all")]).to_pylist():
            self._count(group["verdict"], group["rule"], group["count_all"])

    def _count(self, verdict: str, rule: str, number: int) -> None:
        if verdict == "failed":
            self._failed += number
        else:
            self._dropped[rule] += number

    @property
    def counts(self) -> Counts:
        kept, dropped = self._documents.rows, dict(sorted(self._dropped.items()))
        return Counts(kept + sum(dropped.values()) + self._failed, kept, dropped, self._failed)


@contextmanager
def documents_and_fates(
    context: UnitContext, path: str, level: int = 3, ledger_level: int = 3
) -> Iterator[DocumentFile]:
    """The files ``data/<path>`` and ``ledger/<path>`` of a unit.

    Levels of compression are no matter of taste: they are in the bytes, and so in what later stages compare.
    """
    with (
        context.output(f"data/{path}") as data,
        context.output(f"ledger/{path}") as ledger,
        RowWriter(data, DOCUMENT_SCHEMA, level=level) as documents,
        RowWriter(ledger, LEDGER_SCHEMA, level=ledger_level) as rows,
    ):
        yield DocumentFile(documents, rows)


def ledger_writer(path: Path) -> RowWriter:
    return RowWriter(path, LEDGER_SCHEMA)
