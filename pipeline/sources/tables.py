"""JSON lines and Parquet files whose rows already hold text; the source's column map says where.

What a row holds costs that row at most: text that is not UTF-8, a value of another type, a lone surrogate, a line without
end. What is damaged in the file itself costs the compressed member, or the row group, that holds it (``compression.py``).
"""

import codecs
import datetime
import io
from collections.abc import Iterator
from json import loads
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import InputError
from pipeline.compression import (
    Damaged,
    Lost,
    Overlong,
    TextLine,
    foreign_format,
    lines,
    read_lines,
    seekable,
    unproven_head,
)
from pipeline.document import Document, Origin, document_id, read_batches
from pipeline.extract.clean import clean_line, clean_text
from pipeline.extract.dates import iso_date
from pipeline.sources.columns import (
    Row,
    TableOptions,
    check_columns,
    check_text_column,
    columns_of,
    has_text,
    paths_in,
    paths_of,
    value_of,
)
from pipeline.sources.contract import EMPTY_FILE, Archive, Outcome, Part, Reading, Salvage, damaged, lost
from pipeline.sources.files import open_archive
from pipeline.sources.headers import payload_digest

BATCH_ROWS = 512
MAX_TITLE = 500
MAX_CELL = 8_000
"""Longer addresses, ids and names are cut: they are no such thing."""
HEAD_BYTES = 512
RECORD_SEPARATOR = b"\x1e"
"""Before each object of a JSON text sequence (RFC 7464)."""
ARCHIVES = ("a zip archive", "a tar archive")
SPACE = b" \t\r\n"
"""What JSON takes for white space."""
LOOK_BYTES = 1 << 20


class LineOptions(TableOptions, Salvage):
    """Sources whose rows may be lines of compressed files."""


class JsonlSource(LineOptions):
    """JSON lines."""

    kind: Literal["jsonl"]


class ParquetSource(TableOptions):
    """Parquet files."""

    kind: Literal["parquet"]


def read_jsonl(part: Part, reading: Reading[LineOptions]) -> Iterator[Outcome]:
    """One document a line. A line that is no JSON object costs that line, a damaged gzip member its lines.

    A single line may lack the text; a file in which no line has its column is a mistake in the column map, and one in
    which no line is an object is no such file.
    """
    source, archive = reading.source, part.archive
    first: Row = {}
    mapped = False
    bad: bytes | None = None
    empty = True
    with open_archive(archive) as raw:
        for line in lines(raw, source.max_record_bytes, salvage=source.salvage):
            empty = False
            if not isinstance(line, TextLine):
                yield _unread(line, archive.name, source)
                continue
            written = _without_mark(line.data).strip(SPACE)
            if not written:
                continue
            # A zip or a tar may hold its members as they are, and lines of JSON then.
            if not line.offset and (written == b"[" or foreign_format(line.data) in ARCHIVES):
                raise _no_json_lines(line.data, archive)
            row = _row(line.data)
            if isinstance(row, dict):
                first = first or row
                mapped = mapped or has_text(row, source)
                yield document_of_row(row, archive.name, line.offset, len(line.data), source)
            elif not line.resumed:  # else the rest of a line whose beginning was lost
                bad = line.data[:HEAD_BYTES] if bad is None else bad
                yield _bad_line(line, row, archive.name, source)
    if empty:
        yield damaged(source.name, archive.name, EMPTY_FILE, 0, archive.size, "the file is empty")
    if first and not mapped:
        check_text_column(source, paths_in(first), archive.url)
    if bad is not None and not first:
        raise _no_json_lines(bad, archive)


def _row(line: bytes) -> Row | str:
    """The object on a line, or what is wrong with it."""
    try:
        row = loads(line.lstrip(RECORD_SEPARATOR))
    except (ValueError, RecursionError) as error:
        return str(error)
    return row if isinstance(row, dict) else "the line is not an object"


def _unread(line: Overlong | Lost, archive: str, source: TableOptions) -> Outcome:
    if isinstance(line, Lost):
        rule = "truncated_file" if line.why.endswith("ends early") else "damaged_file"
        return damaged(source.name, archive, rule, line.start, line.end - line.start, line.why)
    identity = document_id(source.name, "", f"{archive}@{line.offset}", "")
    most = float(source.max_record_bytes)
    place = f"{archive} bytes {line.offset}+{line.length}"
    return lost(
        identity, source.name, "dropped", "record_too_large", detail=place, score=float(line.length), threshold=most
    )


def _bad_line(line: TextLine, why: str, archive: str, source: TableOptions) -> Outcome:
    """A last line without its line feed that is no JSON is what a cut file ends with."""
    rule = "bad_json" if line.data.endswith(b"\n") else "truncated_file"
    if rule == "truncated_file":
        return damaged(source.name, archive, rule, line.offset, len(line.data), f"the last line is cut: {why}")
    identity = document_id(source.name, "", f"{archive}@{line.offset}", "")
    place = f"{archive} bytes {line.offset}+{len(line.data)}"
    return lost(identity, source.name, "failed", rule, detail=f"{place}: {why[:150]}")


def _without_mark(line: bytes) -> bytes:
    """Without a byte-order mark in front; its bytes alone, such as a line of one of them, are damage."""
    return line.removeprefix(codecs.BOM_UTF8)


def _no_json_lines(head: bytes, archive: Archive) -> InputError:
    """What the file seems to be instead."""
    text = _without_mark(head).lstrip(SPACE)
    if kind := foreign_format(head):
        why = f"it is {kind}"
    elif text.startswith(b"["):
        why = "it is one JSON array: write each of its items on a line of its own (jq -c '.[]')"
    elif text.startswith(b"{"):
        why = "its objects go over several lines: write each on one (jq -c .)"
    else:
        why = f"it begins with {text[:40]!r}"
    return InputError(
        f"no line of the file is a JSON object; {why}", where=archive.url, remedy="Check the source's address and kind."
    )


def read_parquet(part: Part, reading: Reading[TableOptions]) -> Iterator[Outcome]:
    """One document a row; only the mapped columns are read. Damage costs the rest of its row group."""
    source, archive = reading.source, part.archive
    try:
        with open_archive(archive) as raw, seekable(raw) as stream:
            table = _parquet_file(stream, archive)
            names = paths_of(table.schema_arrow)
            check_columns(source, names, archive.url)
            columns = columns_of(source, names)
            position = 0
            for group in range(table.num_row_groups):
                yield from _row_group(table, group, columns, position, archive.name, source)
                position += table.metadata.row_group(group).num_rows
    except Damaged as error:
        raise InputError(f"the file is damaged: {error}", where=archive.url, remedy="Fetch it again.") from None


def _parquet_file(stream: BinaryIO, archive: Archive) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        stream.seek(0)
        kind = foreign_format(stream.read(HEAD_BYTES))
        instead = f": it is {kind}" if kind and "Parquet" not in kind else ", or is cut short"
        raise InputError(
            f"the file is not Parquet{instead}",
            where=archive.url,
            remedy="Check the source's kind; in a folder that holds other files too, name those that are: folder/**/*.parquet.",
        ) from error


def _row_group(
    table: pq.ParquetFile, group: int, columns: list[str], position: int, archive: str, source: TableOptions
) -> Iterator[Outcome]:
    done, total = 0, table.metadata.row_group(group).num_rows
    why = "rows are missing"
    try:
        for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            for row in rows_of(batch):
                yield document_of_row(row, archive, position + done, 1, source)
                done += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
            raise  # of the store, not of what it holds
        why = str(error)
    place = f"{archive} bytes {_extent(table, group)}"
    for number in range(position + done, position + total):
        identity = document_id(source.name, "", f"{archive}@{number}", "")
        url = f"{archive}#{archive}@{number}"
        yield lost(identity, source.name, "failed", "damaged_rows", url=url, detail=f"{place}: {why[:150]}")


def _extent(table: pq.ParquetFile, group: int) -> str:
    """Where a row group lies."""
    described = table.metadata.row_group(group)
    chunks = [described.column(number) for number in range(described.num_columns)]
    starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
    return f"{min(starts)}+{sum(chunk.total_compressed_size for chunk in chunks)}"


def rows_of(batch: pa.RecordBatch | pa.Table) -> Iterator[Row]:
    """The rows as Python values. What cannot be one stays what it is: bytes that are no UTF-8, or the error."""
    columns = {name: _values(batch.column(batch.schema.names.index(name))) for name in batch.schema.names}
    for number in range(batch.num_rows):
        yield {name: values[number] for name, values in columns.items()}


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return [value for chunk in chunks for value in _values(chunk.dictionary_decode())]
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, ArithmeticError, pa.ArrowException):
        return [_value(column[number]) for number in range(len(column))]
    return values


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    except (ValueError, ArithmeticError, pa.ArrowException):
        return None  # a date no calendar has


def rows_of_file(address: str) -> Iterator[Row]:
    """The rows of a Parquet file, or of JSON lines compressed or not, that is no source: labels, evaluation items."""
    if address.endswith(".parquet"):
        try:
            for batch in read_batches(address, batch_rows=256):
                yield from rows_of(batch)
        except pa.ArrowException as error:
            why = str(error).splitlines()[0].partition(".")[0]
            raise InputError(
                f"the file is not Parquet, or is cut short: {why}", where=address, remedy="Fetch it again."
            ) from None
        return
    for number, line in enumerate(read_lines(address), start=1):
        if _without_mark(line).strip(SPACE):
            row = _row(line)
            if isinstance(row, str):
                raise InputError(
                    f"line {number} is not a JSON object: {row}", where=address, remedy="One object a line is wanted."
                )
            yield row


def document_of_row(row: Row, archive: str, offset: int, length: int, source: TableOptions) -> Outcome:
    """A row as a document by the source's column map; a row that holds what nobody foresaw costs itself."""
    try:
        return _document(row, archive, offset, length, source)
    except (ValueError, TypeError, ArithmeticError, RecursionError, LookupError, AttributeError) as error:
        identity = document_id(source.name, "", f"{archive}@{offset}", "")
        detail = f"{archive} bytes {offset}+{length}: {type(error).__name__}: {str(error)[:100]}"
        return lost(identity, source.name, "failed", "unreadable_record", detail=detail)


def _document(row: Row, archive: str, offset: int, length: int, source: TableOptions) -> Outcome:
    raw = value_of(row, source.text_column)
    record_id = _cell(row, source.id_column) or f"{archive}@{offset}"
    # Every document can be asked for: what has no address of its own gets its place's.
    url = _cell(row, source.url_column) or f"{archive}#{record_id}"
    if isinstance(raw, bytes):  # a column without a charset, or one whose bytes are not what it says
        try:
            raw = raw.decode()
        except UnicodeDecodeError as error:
            why = f"{source.text_column} is not UTF-8: byte {error.start}"
            identity = document_id(source.name, url, record_id, payload_digest(error.object))
            place = f"{archive} bytes {offset}+{length}"
            return lost(identity, source.name, "failed", "not_utf8", url=url, detail=f"{place}: {why}")
    digest = payload_digest(raw.encode("utf-8", "surrogatepass")) if isinstance(raw, str) else ""
    identity = document_id(source.name, url, record_id, digest)
    if isinstance(raw, str) and len(raw) > source.max_record_bytes:
        most, size = float(source.max_record_bytes), float(len(raw))
        return lost(identity, source.name, "dropped", "record_too_large", url=url, score=size, threshold=most)
    text = clean_text(raw) if isinstance(raw, str) else ""
    if not text:
        why = "" if isinstance(raw, str) else f"{source.text_column} is {type(raw).__name__}"
        return lost(identity, source.name, "dropped", "no_text", url=url, detail=why, score=0.0, threshold=1.0)
    title = _cell(row, source.title_column)
    return Document(
        id=identity,
        text=text,
        source=source.name,
        url=url[:MAX_CELL],
        title=clean_line(title)[:MAX_TITLE] if title else None,
        language=source.language,
        license=_cell(row, source.license_column) or source.license,
        author=_author(row, source.author_column),
        date=_date(row, source.date_column),
        origin=Origin(archive=archive, offset=offset, length=length, record_id=record_id[:MAX_CELL], digest=digest),
    )


def _cell(row: Row, column: str | None) -> str | None:
    value = value_of(row, column)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else _text(value)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _author(row: Row, column: str | None) -> str | None:
    value = value_of(row, column)
    names = [clean_line(_text(name)) for name in (value if isinstance(value, list) else [value]) if name]
    return "; ".join(name for name in names if name)[:MAX_TITLE] or None


def _date(row: Row, column: str | None) -> str | None:
    """ISO 8601; a value that is no date is none."""
    value = value_of(row, column)
    if isinstance(value, datetime.date):  # a datetime too
        return value.isoformat()
    return iso_date(_text(value)) if value is not None else None


def check_file(source: JsonlSource | ParquetSource, archive: Archive) -> None:
    """Raises InputError where a file has no such columns. One that cannot be read passes: what it loses may be tolerated.

    Rows of JSON lines may lack a column each; that no row of a whole megabyte has the text is a mistake in the map.
    """
    try:
        names = _columns_of_file(source, archive)
    except (InputError, OSError):
        return
    if isinstance(source, ParquetSource):
        check_columns(source, names, archive.url)
    elif names:
        check_text_column(source, names, archive.url)


def _columns_of_file(source: JsonlSource | ParquetSource, archive: Archive) -> set[str]:
    with open_archive(archive) as raw:
        if isinstance(source, ParquetSource):
            with seekable(raw) as stream:
                return set(paths_of(_parquet_file(stream, archive).schema_arrow))
        rows = [_row(line) for line in io.BytesIO(unproven_head(raw, LOOK_BYTES)) if not line.isspace()]
    return set().union(*(paths_in(row) for row in rows if isinstance(row, dict)))
