"""Tables of whatever kind, as Arrow: read batch by batch, and some of their rows as the kind that came in.

pyarrow, pandas and polars speak the Arrow interface (``__arrow_c_stream__``), so any other library that does is
understood too. A Hugging Face dataset is read by its own iterator, as it lies on the disk.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import InputError

_INSTEAD = {
    "LazyFrame": "Compute it first: frame.collect().",
    "DatasetDict": "Give one of its splits: data['train'].",
    "IterableDatasetDict": "Give one of its splits: data['train'].",
}
ROWS = 1024
"""Rows of a batch, where the data is not cut into batches already."""


def record_batches(data: Any) -> Iterator[pa.RecordBatch]:
    """The rows of a table in batches; nothing is held but one of them."""
    for batch in _as_they_come(data):
        yield from (_plain(batch.slice(first, ROWS)) for first in range(0, batch.num_rows, ROWS))


def _as_they_come(data: Any) -> Iterator[pa.RecordBatch]:
    if _library(data) == "datasets" and hasattr(data, "iter"):
        for table in data.with_format("arrow").iter(batch_size=ROWS):
            yield from table.to_batches()
    elif isinstance(data, pa.RecordBatch):
        yield data
    elif hasattr(data, "__arrow_c_stream__"):
        try:
            yield from pa.RecordBatchReader.from_stream(data)
        except (ValueError, TypeError) as error:  # pyarrow's own errors are of these kinds too
            if type(data).__name__ == "DataFrame":
                raise InputError(
                    f"the table cannot be read as Arrow: {' '.join(str(error).split())}",
                    remedy="Give each column a name of its own and values of one kind: frame.astype({'text': str}).",
                ) from error
            raise _not_a_table(data) from error  # a column
    else:
        raise _not_a_table(data)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Texts that are stored as numbers of a dictionary, as runs or as views, as texts: few functions know the others."""
    return pa.RecordBatch.from_arrays([_plain_column(column) for column in batch.columns], names=batch.schema.names)


def _plain_column(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        return _plain_column(column.dictionary).take(column.indices)
    if pa.types.is_run_end_encoded(column.type):
        return _plain_column(pc.run_end_decode(column))
    return column.cast(pa.large_string()) if column.type == pa.string_view() else column


def text_batches(data: Any, column: str) -> Iterator[pa.RecordBatch]:
    """As ``record_batches``; texts alone (a list, a column) are a table with one column."""
    if type(data).__name__ == "Column" and _library(data) == "datasets":
        data = list(data)
    if _library(data) == "numpy":
        data = data.tolist()
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
        return pa.array(data[first : first + ROWS], pa.large_string(), from_pandas=True)
    except pa.ArrowTypeError as error:
        row, wrong = next((row, text) for row, text in enumerate(data) if not _is_text(text))
        raise InputError(f"text {row} is of type {type(wrong).__name__}", remedy="Give texts: str(...).") from error
    except UnicodeEncodeError as error:
        row = next(row for row, text in enumerate(data) if text == error.object)
        raise InputError(
            f"text {row} holds half a surrogate pair, which is no character",
            remedy="Replace it: text.encode('utf-8', 'replace').decode().",
        ) from error


def texts_of(data: Any, column: str) -> Iterator[str]:
    """The texts of a table's column, of a list or of any iterable of texts, one after another."""
    if isinstance(data, (str, bytes, Mapping)):
        raise InputError(f"a {type(data).__name__} is not a list of texts", remedy="Give a list of texts, or a table.")
    if isinstance(data, Iterable) and not hasattr(data, "__arrow_c_stream__") and _library(data) != "datasets":
        data = iter(data)
        while some := list(islice(data, ROWS)):
            yield from (text for text in _texts(some, 0).to_pylist() if text is not None)
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
    try:
        return table.take(rows)
    except pa.ArrowNotImplementedError:  # of views and runs pyarrow cannot take rows
        return pa.Table.from_batches([_plain(batch) for batch in pa.table(table).to_batches()]).take(rows)


def _is_text(value: Any) -> bool:
    """Whether pyarrow takes it for a text, or for none (None, NaN, pandas' NA)."""
    try:
        return isinstance(value, str) or len(pa.array([value], pa.large_string(), from_pandas=True)) == 1
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return False


def _library(data: Any) -> str:
    return type(data).__module__.partition(".")[0]


def _not_a_table(data: Any) -> InputError:
    return InputError(
        f"{type(data).__name__} is not a table",
        remedy=_INSTEAD.get(type(data).__name__)
        or "Give a table of pyarrow, pandas, polars or Hugging Face datasets, or what has __arrow_c_stream__.",
    )
