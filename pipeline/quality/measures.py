"""Every attribute of a document, computed for a whole batch from one ``TextView``.

To add a measure: write a function from the view to one number a document, name it in its file's dictionary, and give a
rule to it in ``pipeline.quality.rules``. ``docs/adding-a-filter.md`` walks through one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import ConfigError
from infra.extensions import load
from pipeline.extract.code_blocks import prose_of
from pipeline.quality.c4 import c4
from pipeline.quality.code import code
from pipeline.quality.fineweb import fineweb
from pipeline.quality.gopher import gopher
from pipeline.quality.refinedweb import refinedweb
from pipeline.quality.repetition import repetition
from pipeline.quality.text import Floats, Ints, TextView, view_texts

Columns = dict[str, Floats | Ints]


@dataclass(frozen=True)
class Batch:
    """What the measures of a batch may depend on."""

    texts: Sequence[str] | pa.Array
    languages: list[str | None]
    programming_languages: list[str | None]


@dataclass(frozen=True)
class Measures:
    """Measures of another package: ``compute`` gives one column for each of ``names``."""

    names: tuple[str, ...]
    compute: Callable[[TextView, Batch], Columns]


def measure(batch: Batch, others: Sequence[str] = ()) -> Columns:
    """All measures of a batch: counts as integers, shares as floats, NaN where a measure has no meaning.

    Of texts that are not source code the prose is measured: fenced code is no line without a full stop.
    ``others`` are dotted paths of other packages' ``Measures``.
    """
    text = view_texts(prose(batch.texts, batch.programming_languages))
    columns = _ours(text, batch)
    for reference in others:
        columns |= _theirs(reference, text, batch, columns)
    return columns


def prose(texts: Sequence[str] | pa.Array, programming_languages: Sequence[str | None]) -> Sequence[str] | pa.Array:
    """Texts without the code in fences; source code as it is."""
    if isinstance(texts, pa.Array):
        if not pc.any(pc.match_substring(texts, "```")).as_py():
            return texts
        texts = texts.to_pylist()
    return [text if code else prose_of(text) for text, code in zip(texts, programming_languages, strict=True)]


def attribute_schema(others: Sequence[str] = ()) -> pa.Schema:
    """The attributes that rules may look at."""
    beside = [("language", pa.string()), ("language_score", pa.float32()), ("quality", pa.float32())]
    return pa.schema([*pa.schema(beside), *measure_texts(pa.array([], pa.large_string()), [], [], others).schema])


def _theirs(reference: str, text: TextView, batch: Batch, taken: Columns) -> Columns:
    declared = load(reference, "measures", Measures)
    found = declared.compute(text, batch)
    given = list(found) if isinstance(found, Mapping) else None
    if (
        given is None
        or {*given} != {*declared.names}
        or {*given} & {*taken, "id", "language", "language_score", "quality"}
    ):
        raise ConfigError(
            f"{reference} gives {f'a {type(found).__name__}' if given is None else f'the columns {given}'}",
            where="attributes.measures",
            remedy=f"It must give {', '.join(declared.names)}, none of them a name that is taken.",
        )
    columns: dict[str, Any] = {name: np.asarray(column) for name, column in found.items()}
    for name, column in columns.items():
        if column.shape != (text.documents,) or column.dtype.kind not in "biuf":
            raise ConfigError(
                f"{reference}: {name} is of shape {column.shape} and type {column.dtype} for {text.documents} documents",
                where="attributes.measures",
                remedy="Give one number a document, NaN where the measure has no meaning.",
            )
    return columns


def _ours(text: TextView, batch: Batch) -> Columns:
    return {
        "characters": text.characters,
        **gopher(text, batch.languages),
        **repetition(text),
        **c4(text),
        **fineweb(text),
        **refinedweb(text),
        **code(text, batch.programming_languages),
    }


def measure_texts(
    texts: pa.Array,
    languages: Sequence[str | None],
    programming_languages: Sequence[str | None],
    others: Sequence[str] = (),
) -> pa.Table:
    """All measures of some texts as a table; ``languages`` and ``programming_languages`` (null: none) are as many."""
    batch = Batch(texts, list(languages), list(programming_languages))
    return pa.table({name: as_arrow(column) for name, column in measure(batch, others).items()})


def as_arrow(column: Floats | Ints) -> pa.Array:
    """A column as it is stored: NaN becomes null."""
    if column.dtype.kind == "f":
        return pa.array(column, pa.float64(), from_pandas=True)
    return pa.array(np.asarray(column, np.int64), pa.int64())
