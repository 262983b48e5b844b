"""The document record: the only place where its schema is written.

A document is one row of a Parquet file (zstd). Its ``id`` is derived from what it is (source, address, record identity,
payload digest), never from where it stood in a file or which worker read it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ORIGIN = pa.struct(
    [
        pa.field("archive", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("record_id", pa.string()),
        pa.field("digest", pa.string()),
    ]
)

SURROGATES = re.compile("[\ud800-\udfff]")

EXCERPT = 200
"""Characters of a text that tables of evidence show."""
BATCH_ROWS, BATCH_BYTES = 1024, 32 << 20
"""So much at most waits to be written."""

VERSION_KEY = b"headwater.document"

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("author", pa.string()),
        pa.field("language", pa.string()),
        pa.field("license", pa.string()),
        pa.field("date", pa.string()),
        pa.field("captured", pa.string()),
        pa.field("origin", ORIGIN, nullable=False),
        pa.field("path", pa.string()),
        pa.field("repo", pa.string()),
        pa.field("programming_language", pa.string()),
        pa.field("quality", pa.float32()),
    ],
    metadata={"headwater.document": "2"},
)
"""``source`` is the recipe's name for where the document came from (``web``, ``wikipedia``, ``code``); ``author`` has "; "
between names; ``date`` is when it was published or last revised, as its page or archive says, else when it was captured;
``captured`` when a crawler fetched it (both ISO 8601). ``origin.archive`` is the archive's name inside its source,
``offset``/``length`` the bytes of the record there; ``quality`` is the classifier's score, carried from the attributes by
the selection (null before it)."""


class Origin(TypedDict):
    """Where the bytes are: enough to fetch the record again."""

    archive: str
    offset: int
    length: int
    record_id: str
    digest: str


class Document(TypedDict):
    """One document as a plain dict with the schema's columns; optional columns may be absent."""

    id: bytes
    text: str
    source: str
    origin: Origin
    url: NotRequired[str | None]
    title: NotRequired[str | None]
    author: NotRequired[str | None]
    language: NotRequired[str | None]
    license: NotRequired[str | None]
    date: NotRequired[str | None]
    captured: NotRequired[str | None]
    path: NotRequired[str | None]
    repo: NotRequired[str | None]
    programming_language: NotRequired[str | None]
    quality: NotRequired[float | None]


def document_id(source: str, address: str, record_id: str, payload_digest: str) -> bytes:
    """16 bytes that name a record by its content and identity (BLAKE2b).

    ``address`` is the URL, page title or path; ``record_id`` the archive's own id of the record (WARC-Record-ID, page
    and revision id, …); ``payload_digest`` a digest of the raw payload.
    """
    key = "\0".join((source, address, record_id, payload_digest)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=16).digest()


def documents_table(documents: Sequence[Document]) -> pa.Table:
    """A table with exactly the document schema."""
    return _table([dict(document) for document in documents], DOCUMENT_SCHEMA)


def _table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except UnicodeEncodeError:  # a lone surrogate, in whatever field: UTF-8 has no form for it
        return pa.Table.from_pylist(storable(rows), schema=schema)


def storable(value: Any) -> Any:
    """The value with U+FFFD for each lone surrogate of its texts."""
    if isinstance(value, str):
        return SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value


def identity_of(documents: pa.RecordBatch, row: int) -> dict[str, Any]:
    """What names a document in a ledger and in tables of evidence: ``id``, ``url``, ``source``."""
    return {name: documents.column(name)[row].as_py() for name in ("id", "url", "source")}


def excerpt(text: bytes, begin: int, end: int) -> dict[str, Any]:
    """A part of a text as tables of evidence have it: ``start`` and ``end`` in characters, and its beginning."""
    start, part = len(text[:begin].decode()), text[begin:end].decode()
    return {"start": start, "end": start + len(part), "excerpt": part[:EXCERPT]}


def with_texts(documents: pa.RecordBatch, texts: Mapping[int, str]) -> pa.Table:
    """The documents as they are stored, some rows (by number) with another text."""
    table = pa.Table.from_batches([documents]).select(DOCUMENT_SCHEMA.names)
    if texts:
        column = [texts.get(row, text) for row, text in enumerate(table["text"].to_pylist())]
        field = DOCUMENT_SCHEMA.field("text")
        table = table.set_column(DOCUMENT_SCHEMA.get_field_index("text"), field, pa.array(column, field.type))
    return table.cast(DOCUMENT_SCHEMA)


class RowWriter:
    """Writes rows of one schema to a Parquet file in batches; memory stays at one batch."""

    def __init__(self, path: Path, schema: pa.Schema, level: int = 3) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=level)
        self._schema = schema
        self._rows: list[Any] = []
        self._bytes = 0
        self.rows = 0

    def write(self, row: Any) -> None:
        self._rows.append(row)
        self._bytes += len(row.get("text") or "")
        self.rows += 1
        if len(self._rows) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def write_table(self, table: pa.Table) -> None:
        """Append a whole table of the same schema."""
        self._flush()
        self._writer.write_table(table)
        self.rows += table.num_rows

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(_table(self._rows, self._schema))
            self._rows, self._bytes = [], 0

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()


def document_writer(path: Path) -> RowWriter:
    return RowWriter(path, DOCUMENT_SCHEMA)


def read_batches(
    url: str, columns: list[str] | None = None, batch_rows: int = 1024, text_bytes: int = 0
) -> Iterator[pa.RecordBatch]:
    """Stream a Parquet file (any fsspec address) in batches; with ``text_bytes``, of at most so much text (or one row).

    Documents of an earlier version, read whole, have nulls in the columns that came later.
    """
    with fsspec.open(url, "rb") as stream:
        table = pq.ParquetFile(stream)
        written = (table.schema_arrow.metadata or {}).get(VERSION_KEY)
        old = columns is None and written and written != DOCUMENT_SCHEMA.metadata[VERSION_KEY]
        for batch in table.iter_batches(batch_size=batch_rows, columns=columns):
            whole = _with_later_columns(batch) if old else batch
            yield from _cut(whole, text_bytes) if text_bytes else (whole,)


def _with_later_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    rows, known = batch.num_rows, set(batch.schema.names)
    columns = [batch[field.name] if field.name in known else pa.nulls(rows, field.type) for field in DOCUMENT_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT_SCHEMA)


def _cut(batch: pa.RecordBatch, text_bytes: int) -> Iterator[pa.RecordBatch]:
    ends = np.cumsum(pc.binary_length(batch.column("text")).to_numpy())
    start = 0
    while start < batch.num_rows:
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + text_bytes, side="right")))
        yield batch.slice(start, end - start)
        start = end
