"""Deduplication of documents in memory: the stage itself, in this process, over a temporary dataset of one file.

Rows are known by their number; of equals the earlier one stays. All that decides is what the stage's own documents have:
columns ``url``, ``source``, ``date``, ``quality``, ``programming_language``, ``path``, ``repo`` are used where they are.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import ConfigError, InputError
from infra.in_process import run_steps
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import CountsRecord, Manifest, output_digest, write_manifest
from pipeline.dedup import STAGE, DedupConfig
from pipeline.document import DOCUMENT_SCHEMA, document_writer

USED = ("source", "url", "date", "path", "repo", "programming_language", "quality")
FILE = "table/00000"
FATES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("survivor", pa.int64()),
    ]
)
"""``survivor`` is the row that stays in the place of ``row``; ``score`` the similarity of the two, if it was measured. A row
without a text (``no_text``) has neither."""


@dataclass(frozen=True)
class TableFates:
    """What became of the rows of a table: those that stay, in order, and each other one (``FATES_SCHEMA``)."""

    kept: pa.Array
    dropped: pa.Table


def dedup_batches(batches: Iterable[pa.RecordBatch], config: DedupConfig, text: str = "text") -> TableFates:
    """Deduplicate the rows of some batches by their column ``text``. One batch at a time is held in memory."""
    if config.repeats != "off" or config.previous:
        raise ConfigError(
            "repeats and previous are for datasets of a store: a table keeps its texts, and is compared with itself",
            where="dedup",
            remedy="Leave them out, or run a recipe.",
        )
    config = config.model_copy(update={"index": False})
    with tempfile.TemporaryDirectory(prefix="headwater-dedup-") as name:
        folder = Path(name)
        dataset, textless = _written(batches, text, folder / "input")
        if not dataset.manifest.counts.kept:
            return TableFates(pa.array([], pa.int64()), textless)
        (role,) = STAGE.inputs(config)
        root = Path(run_steps(STAGE, config, {role: dataset}, folder / "stage").dataset_root)
        kept = pq.read_table(root / f"data/{FILE}.parquet", columns=["id"])
        ledger = pq.read_table(root / f"ledger/{FILE}.parquet", columns=["id", "rule", "score", "survivor_id"])
        columns = [_rows(ledger["id"]), ledger["rule"], ledger["score"], _rows(ledger["survivor_id"])]
        dropped = pa.concat_tables([pa.table(columns, schema=FATES_SCHEMA), textless])
        return TableFates(_rows(kept["id"]), dropped.sort_by("row"))


def _written(batches: Iterable[pa.RecordBatch], text: str, root: Path) -> tuple[Dataset, pa.Table]:
    """The rows as a dataset of documents, for the stage to read; and the fates of those that have no text."""
    path = root / f"data/{FILE}.parquet"
    path.parent.mkdir(parents=True)
    row, textless = 0, [FATES_SCHEMA.empty_table()]
    with document_writer(path) as writer:
        for batch in batches:
            numbers = pa.array(range(row, row + batch.num_rows), pa.int64())
            there = _texts(batch, text).is_valid()
            writer.write_table(_documents(batch.filter(there), text, numbers.filter(there)))
            textless.append(_without_text(numbers.filter(pc.invert(there))))
            row += batch.num_rows
    fates = pa.concat_tables(textless)
    with_text = row - fates.num_rows
    outputs = [describe_file(root, f"data/{FILE}.parquet")]
    manifest = Manifest(
        name="table", fingerprint="0" * 12, payload={}, config={}, inputs=[], outputs=outputs,
        output_digest=output_digest(outputs), counts=CountsRecord(incoming=with_text, kept=with_text),
    )  # fmt: skip
    write_manifest(str(root), manifest)
    return Dataset.open(str(root)), fates


def _texts(batch: pa.RecordBatch, text: str) -> pa.Array:
    names = batch.schema.names
    if text not in names:
        raise InputError(
            f"the table has no column {text!r}", remedy=f"Name the column of the texts; there are {', '.join(names)}."
        )
    return _as(batch.column(text), DOCUMENT_SCHEMA.field("text"))


def _without_text(numbers: pa.Array) -> pa.Table:
    nothing = pa.nulls(len(numbers), pa.float64())
    return pa.table(
        [numbers, pa.repeat("no_text", len(numbers)), nothing, nothing.cast(pa.int64())], schema=FATES_SCHEMA
    )


def _documents(batch: pa.RecordBatch, text: str, numbers: pa.Array) -> pa.Table:
    names, rows = batch.schema.names, batch.num_rows
    given = {name: _as(batch.column(name), DOCUMENT_SCHEMA.field(name)) for name in USED if name in names}
    origin = pa.scalar(
        {"archive": "", "offset": 0, "length": 0, "record_id": "", "digest": ""}, DOCUMENT_SCHEMA.field("origin").type
    )
    given |= {
        "id": pa.array([number.to_bytes(16, "big") for number in numbers.to_pylist()], pa.binary(16)),
        "text": _texts(batch, text),
        "source": pc.fill_null(given["source"], "table") if "source" in given else pa.repeat("table", rows),
        "origin": pa.repeat(origin, rows),
    }
    columns = [given.get(field.name, pa.nulls(rows, field.type)) for field in DOCUMENT_SCHEMA]
    return pa.Table.from_arrays(columns, schema=DOCUMENT_SCHEMA)


def _as(column: pa.Array, field: pa.Field) -> pa.Array:
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"column {field.name!r} holds {column.type}, which is no {field.type}",
            remedy="Convert the column, or leave it out.",
        ) from error


def _rows(ids: pa.ChunkedArray) -> pa.Array:
    return pa.array([int.from_bytes(each, "big") for each in ids.to_pylist()], pa.int64())
