"""Which column of a row is its text, its id, its URL: the column map of sources whose records are rows.

A column may be named by its path (``metadata.url``). Of several names (``url | link``) the first counts under which a row has
something, and none need be there; so the usual names are found without a word. A column that is mapped by one name must be there.
"""

from collections.abc import Collection
from functools import cache
from json import loads
from typing import Any

import pyarrow as pa
from pydantic import Field

from infra.errors import InputError
from pipeline.sources.contract import RecordLimit

MAX_KEYS = 100
Row = dict[str, Any]


class TableOptions(RecordLimit):
    """Sources whose records are rows: the column map."""

    text_column: str = Field(
        default="text",
        description="The column with the text: its name, its path (meta.text), or several (a | b), of which the first counts.",
    )
    id_column: str | None = Field(
        default="id | doc_id | document_id | uuid | _id | metadata.id | meta.id",
        description="The column with the record's own id; none: its position.",
    )
    url_column: str | None = Field(
        default="url | uri | link | source_url | metadata.url | meta.url",
        description="The column with the URL, or several names of which the first that a row has counts; none: its id.",
    )
    title_column: str | None = Field(
        default="title | metadata.title | meta.title", description="The column with the title."
    )
    author_column: str | None = Field(default=None, description="The column with the author, or a list of them.")
    date_column: str | None = Field(
        default="date | timestamp | published | created | metadata.date | meta.timestamp",
        description="The column with the date.",
    )
    license_column: str | None = Field(default=None, description="The column with the licence.")


@cache
def names_in(given: str | None) -> tuple[str, ...]:
    """The names of a column that stand in a column map."""
    return tuple(name for part in (given or "").split("|") if (name := part.strip()))


def _mapped(source: TableOptions) -> list[tuple[str, ...]]:
    fields = ("text", "id", "url", "title", "author", "date", "license")
    return [names for field in fields if (names := names_in(getattr(source, f"{field}_column")))]


def check_columns(source: TableOptions, names: Collection[str], where: str) -> None:
    """A column that is mapped by one name must be there: a misspelt one would leave its field empty without a word."""
    check_text_column(source, names, where)
    for mapped in _mapped(source):
        if len(mapped) == 1 and mapped[0] not in names:
            raise _missing(mapped[0], names, where)


def check_text_column(source: TableOptions, names: Collection[str], where: str) -> None:
    """Raises InputError where no row can have a text."""
    if not {*names_in(source.text_column)} & {*names}:
        raise _missing(source.text_column, names, where)


def _missing(column: str, names: Collection[str], where: str) -> InputError:
    shown = ", ".join(sorted(names)[:MAX_KEYS])
    return InputError(
        f"there is no column {column}",
        where=where,
        remedy=f"Correct the source's column map; the columns are: {shown}.",
    )


def columns_of(source: TableOptions, names: Collection[str]) -> list[str]:
    """Those of a table's columns that the source maps."""
    return list(dict.fromkeys(name for mapped in _mapped(source) for name in mapped if name in names))


def paths_of(schema: pa.Schema) -> list[str]:
    """A table's columns, and those inside of them by their paths."""
    inner = [
        f"{field.name}.{field.type.field(number).name}"
        for field in schema
        if pa.types.is_struct(field.type)
        for number in range(field.type.num_fields)
    ]
    return [*schema.names, *inner]


def paths_in(row: Row) -> list[str]:
    """The same of an object."""
    inner = [f"{name}.{key}" for name, value in row.items() if isinstance(value, dict) for key in value]
    return [*row, *inner]


def _at(row: Row, name: str) -> Any:
    """What a row has under a column's name or path. An object within may be a text that holds one."""
    if name in row or "." not in name:
        return row.get(name)
    head, _, rest = name.partition(".")
    inner = row.get(head)
    if isinstance(inner, str) and inner.startswith("{"):
        try:
            inner = loads(inner)
        except (ValueError, RecursionError):
            return None
    return _at(inner, rest) if isinstance(inner, dict) else None


def has_text(row: Row, source: TableOptions) -> bool:
    """Whether a row has the text's column, be it empty."""
    return any(name in row or ("." in name and _at(row, name) is not None) for name in names_in(source.text_column))


def value_of(row: Row, column: str | None) -> Any:
    """What a row has in a mapped column; of several names the first with something that is no list and no object."""
    names = names_in(column)
    if len(names) == 1:
        return _at(row, names[0])
    found = (_at(row, name) for name in names)
    return next((value for value in found if value not in (None, "") and not isinstance(value, (list, dict))), None)
