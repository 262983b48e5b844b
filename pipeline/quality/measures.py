"""Every attribute of a document, computed for a whole batch from one ``TextView``.

To add a measure: write a function from the view to one number a document, name it in its file's dictionary, and give a
rule to it in ``pipeline.quality.rules``. ``docs/adding-a-filter.md`` walks through one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.quality.c4 import c4
from pipeline.quality.code import code
from pipeline.quality.fineweb import fineweb
from pipeline.quality.gopher import gopher
from pipeline.quality.refinedweb import refinedweb
from pipeline.quality.repetition import repetition
from pipeline.quality.text import Floats, Ints, view_texts

Columns = dict[str, Floats | Ints]


@dataclass(frozen=True)
class Batch:
    """What the measures of a batch may depend on."""

    texts: Sequence[str] | pa.Array
    languages: list[str | None]
    programming_languages: list[str | None]


def measure(batch: Batch) -> Columns:
    """All measures of a batch: counts as integers, shares as floats, NaN where a measure has no meaning."""
    text = view_texts(batch.texts)
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
    texts: pa.Array, languages: Sequence[str | None], programming_languages: Sequence[str | None]
) -> pa.Table:
    """All measures of some texts as a table; ``languages`` and ``programming_languages`` (null: none) are as many."""
    batch = Batch(texts, list(languages), list(programming_languages))
    return pa.table({name: as_arrow(column) for name, column in measure(batch).items()})


def as_arrow(column: Floats | Ints) -> pa.Array:
    """A column as it is stored: NaN becomes null."""
    if column.dtype.kind == "f":
        return pa.array(column, pa.float64(), from_pandas=True)
    return pa.array(np.asarray(column, np.int64), pa.int64())
