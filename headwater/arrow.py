"""Tables of whatever kind, as Arrow: read batch by batch, and some of their rows as the kind that came in.

pyarrow, pandas and polars speak the Arrow interface (``__arrow_c_stream__``), so any other library that does is
understood too. A Hugging Face dataset is read by its own iterator, as it lies on the disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from infra.errors import InputError

ROWS = 1024
"""Rows of a batch, where the data is not cut into batches already."""


def record_batches(data: Any) -> Iterator[pa.RecordBatch]:
    """The rows of a table in batches; nothing is held but one of them."""
    if _library(data) == "datasets":
        for table in data.with_format("arrow").iter(batch_size=ROWS):
            yield from table.to_batches()
    elif isinstance(data, pa.RecordBatch):
        yield data
    elif hasattr(data, "__arrow_c_stream__"):
        try:
            reader = pa.RecordBatchReader.from_stream(data)
        except pa.ArrowInvalid as error:  # a column
            raise _not_a_table(data) from error
        for batch in reader:
            yield from (batch.slice(first, ROWS) for first in range(0, batch.num_rows, ROWS))
    else:
        raise _not_a_table(data)


def text_batches(data: Any, column: str) -> Iterator[pa.RecordBatch]:
    """As ``record_batches``; texts alone (a list, a column) are a table with one column."""
    if type(data).__name__ == "Column" and _library(data) == "datasets":
        data = list(data)
    if isinstance(data, (list, tuple)):
        for first in range(0, len(data), ROWS):
            yield pa.record_batch({column: _texts(data, first)})
    elif isinstance(data, (pa.Array, pa.ChunkedArray)) or type(data).__name__ == "Series":
        array = data if isinstance(data, (pa.Array, pa.ChunkedArray)) else pa.chunked_array(data)
        yield from record_batches(pa.table({column: array}))
    else:
        yield from record_batches(data)


def _texts(data: Sequence[Any], first: int) -> pa.Array:
    try:
        return pa.array(data[first : first + ROWS], pa.large_string())
    except UnicodeEncodeError as error:
        row = next(row for row, text in enumerate(data) if text == error.object)
        raise InputError(
            f"text {row} holds half a surrogate pair, which is no character",
            remedy="Replace it: text.encode('utf-8', 'replace').decode().",
        ) from error


def texts_of(data: Any, column: str) -> Iterator[str]:
    """The texts of a table's column, of a list or of any iterable of texts, one after another."""
    if isinstance(data, Iterable) and not hasattr(data, "__arrow_c_stream__") and _library(data) != "datasets":
        yield from data
        return
    for batch in text_batches(data, column):
        yield from (text for text in column_of(batch, column).to_pylist() if text is not None)


def column_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name not in batch.schema.names:
        raise InputError(
            f"the table has no column {name!r}",
            remedy=f"Name the column of the texts; there are {', '.join(batch.schema.names)}.",
        )
    return batch.column(name)


def rows_of(data: Any, rows: pa.Array) -> Any:
    """Some rows of a table, as the kind of table that it is; of any other kind than the known ones, as pyarrow's."""
    library = _library(data)
    if library == "datasets":
        return data.select(rows.to_pylist())
    if library == "pandas":
        return data.iloc[rows.to_numpy()]
    if library == "polars":
        return data[rows.to_pylist()]
    table = data if isinstance(data, (pa.Table, pa.RecordBatch)) else pa.table(data)
    return table.take(rows)


def _library(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _not_a_table(data: Any) -> InputError:
    return InputError(
        f"{type(data).__name__} is not a table",
        remedy="Give a table of pyarrow, pandas, polars or Hugging Face datasets, or what has __arrow_c_stream__.",
    )
