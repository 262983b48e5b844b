"""JSON lines and Parquet files whose rows already hold text; the source's column map says where."""

import contextlib
import datetime
import gzip
import json
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import InputError
from pipeline.document import Document, Origin, document_id
from pipeline.extract.clean import clean_line, clean_text
from pipeline.extract.dates import iso_date
from pipeline.sources.contract import Outcome, Part, Reading, SourceConfig, lost
from pipeline.sources.files import open_archive
from pipeline.sources.warc import payload_digest

MAX_LINE_BYTES = 64 << 20
BATCH_ROWS = 512
MAX_KEYS = 100


def read_jsonl(part: Part, reading: Reading) -> Iterator[Outcome]:
    """One document a line. A line that is no JSON object costs that line; a cut gzip file costs its tail.

    A single line may lack the text; a file in which no line has its column is a mistake in the column map.
    """
    source, archive = reading.source, part.archive
    offset = 0
    first: dict[str, Any] = {}
    mapped = False
    packed = archive.name.endswith(".gz")
    with open_archive(archive) as raw, contextlib.closing(gzip.GzipFile(fileobj=raw) if packed else raw) as lines:
        while True:
            try:
                line = lines.readline(MAX_LINE_BYTES)
            except (EOFError, OSError) as error:
                yield _unreadable(source, archive.name, offset, "truncated_file", str(error))
                return
            if not line:
                break
            place, offset = offset, offset + len(line)
            if not line.strip():
                continue
            row = _row(line)
            if isinstance(row, dict):
                first = first or row
                mapped = mapped or source.text_column in row
                yield document_of_row(row, archive.name, place, len(line), source)
            else:
                yield _unreadable(source, archive.name, place, "bad_json", row)
    if not offset:
        raise InputError("the file is empty", where=archive.url, remedy="Check the source's address.")
    if first and not mapped:
        raise missing_column(source.text_column, list(first)[:MAX_KEYS], archive.url)


def _row(line: bytes) -> dict[str, Any] | str:
    """The object on a line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return str(error)
    return row if isinstance(row, dict) else "the line is not an object"


def read_parquet(part: Part, reading: Reading) -> Iterator[Outcome]:
    """One document a row; only the mapped columns are read."""
    source, archive = reading.source, part.archive
    with open_archive(archive) as stream:
        try:
            table = pq.ParquetFile(stream)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(
                "the file is not Parquet, or is cut short", where=archive.url, remedy="Check the source's kind."
            ) from error
        names = set(table.schema_arrow.names)
        check_columns(source, names, archive.url)
        position = 0
        for batch in table.iter_batches(BATCH_ROWS, columns=columns_of(source)):
            for row in batch.to_pylist():
                yield document_of_row(row, archive.name, position, 1, source)
                position += 1


def check_columns(source: SourceConfig, names: Collection[str], where: str) -> None:
    """Every mapped column must be there: a misspelt one would leave its field empty without a word."""
    for column in columns_of(source):
        if column not in names:
            raise missing_column(column, names, where)


def missing_column(column: str, names: Collection[str], where: str) -> InputError:
    remedy = f"Correct the source's column map; the columns are: {', '.join(sorted(names))}."
    return InputError(f"there is no column {column}", where=where, remedy=remedy)


def columns_of(source: SourceConfig) -> list[str]:
    """The columns that the source maps."""
    mapped = (
        source.id_column,
        source.url_column,
        source.title_column,
        source.author_column,
        source.date_column,
        source.license_column,
    )
    return list(dict.fromkeys([source.text_column, *(name for name in mapped if name)]))


def document_of_row(row: dict[str, Any], archive: str, offset: int, length: int, source: SourceConfig) -> Outcome:
    """A row as a document by the source's column map."""
    raw = row.get(source.text_column)
    record_id = _cell(row, source.id_column) or f"{archive}@{offset}"
    # Every document can be asked for: what has no address of its own gets its place's.
    url = _cell(row, source.url_column) or f"{archive}#{record_id}"
    digest = payload_digest(raw.encode("utf-8", "surrogatepass")) if isinstance(raw, str) else ""
    identity = document_id(source.name, url, record_id, digest)
    text = clean_text(raw) if isinstance(raw, str) else ""
    if not text:
        why = "" if isinstance(raw, str) else f"{source.text_column} is {type(raw).__name__}"
        return lost(identity, source.name, "dropped", "no_text", url=url, detail=why, score=0.0, threshold=1.0)
    title = _cell(row, source.title_column)
    return Document(
        id=identity,
        text=text,
        source=source.name,
        url=url,
        title=clean_line(title) if title else None,
        language=source.language,
        license=_cell(row, source.license_column) or source.license,
        author=_author(row, source.author_column),
        date=_date(row, source.date_column),
        origin=Origin(archive=archive, offset=offset, length=length, record_id=record_id, digest=digest),
    )


def _cell(row: dict[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else str(value)


def _author(row: dict[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    names = [clean_line(str(name)) for name in (value if isinstance(value, list) else [value]) if name]
    return "; ".join(name for name in names if name) or None


def _date(row: dict[str, Any], column: str | None) -> str | None:
    """ISO 8601; a value that is no date is none."""
    value = row.get(column) if column else None
    if isinstance(value, datetime.date):  # a datetime too
        return value.isoformat()
    return iso_date(str(value)) if value is not None else None


def _unreadable(source: SourceConfig, archive: str, offset: int, rule: str, why: str) -> Outcome:
    identity = document_id(source.name, "", f"{archive}@{offset}", "")
    return lost(identity, source.name, "failed", rule, detail=f"{archive} byte {offset}: {why[:150]}")
