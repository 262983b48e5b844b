"""Large corpora made by arithmetic, to see what grows: documents of some hundred words, a tenth copies, a tenth near copies.

Words are drawn from a vocabulary with a natural frequency curve. Copies are made of documents in the block before, which is
another file.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.document import DOCUMENT_SCHEMA
from tests.support import adopt_dataset

ROWS = 25_000
WORDS = 100
_VOCABULARY = 60_000


def publish(folder: Path, documents: int, seed: int, copies: int = 0, huge_mb: int = 0) -> Dataset:
    """``documents`` in all, of which ``copies`` are of one text (half exact, half with a word changed), and, on top, one
    document of ``huge_mb`` MB."""
    rng = np.random.default_rng(seed)
    (folder / "data" / "web").mkdir(parents=True, exist_ok=True)
    vocabulary = np.array([f"w{rng.integers(36**4):x}{i:x}" for i in range(_VOCABULARY)])
    names: list[str] = []
    number = 0
    for texts in _files(rng, documents - copies, vocabulary):
        names.append(_write(folder, len(names), texts, number))
        number += len(texts)
    for texts in _copies(rng, copies, vocabulary):
        names.append(_write(folder, len(names), texts, number))
        number += len(texts)
    if huge_mb:
        text = " ".join(vocabulary[_draw(rng, huge_mb * 250_000)])[: huge_mb << 20]
        names.append(_write(folder, len(names), pa.array([text], pa.large_string()), number))
        number += 1
    return adopt_dataset(folder, "quality", [describe_file(folder, name) for name in names], Counts(number, number))


def _draw(rng: np.random.Generator, size: int | tuple[int, int]) -> NDArray[np.int64]:
    """Word numbers, the frequent ones first."""
    return (_VOCABULARY * rng.random(size) ** 2.5).astype(np.int64)


def _files(rng: np.random.Generator, documents: int, vocabulary: NDArray[np.str_]) -> Iterator[pa.Array]:
    before = None
    for begin in range(0, documents, ROWS):
        rows = min(ROWS, documents - begin)
        words = _draw(rng, (rows, WORDS))
        if before is not None:
            tenth = min(rows, len(before)) // 10
            words[: 2 * tenth] = before[rng.choice(len(before), 2 * tenth, replace=False)]
            words[np.arange(tenth), rng.integers(0, WORDS, tenth)] = _VOCABULARY - 1
        before = words
        yield _texts(words[rng.permutation(rows)], vocabulary)


def _copies(rng: np.random.Generator, copies: int, vocabulary: NDArray[np.str_]) -> Iterator[pa.Array]:
    text = _draw(rng, (1, WORDS))
    for begin in range(0, copies, ROWS):
        rows = min(ROWS, copies - begin)
        words = np.repeat(text, rows, axis=0)
        half = rows // 2
        words[np.arange(half), rng.integers(0, WORDS, half)] = rng.integers(0, _VOCABULARY, half)
        yield _texts(words, vocabulary)


def _texts(words: NDArray[np.int64], vocabulary: NDArray[np.str_]) -> pa.Array:
    rows, width = words.shape
    flat = pa.array(vocabulary).take(pa.array(words.ravel()))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, rows * width + 1, width), pa.int32()), flat)
    return pc.binary_join(lists, " ").cast(pa.large_string())


def _write(folder: Path, number: int, texts: pa.Array, first: int) -> str:
    rows = len(texts)
    ids = np.zeros((rows, 2), ">u8")
    ids[:, 0] = (np.arange(first, first + rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(">u8")
    origin = {"archive": "bench", "offset": 0, "length": 0, "record_id": "", "digest": ""}
    columns = {name: pa.nulls(rows, DOCUMENT_SCHEMA.field(name).type) for name in DOCUMENT_SCHEMA.names}
    columns["id"] = pa.array([row.tobytes() for row in ids], pa.binary(16))
    columns["text"] = texts
    columns["source"] = pa.array(["web"] * rows)
    columns["origin"] = pa.array([origin] * rows, DOCUMENT_SCHEMA.field("origin").type)
    path = f"data/web/{number:05}.parquet"
    table = pa.table(columns, schema=DOCUMENT_SCHEMA)
    pq.write_table(table, folder / path, compression="zstd", compression_level=1, row_group_size=5000)
    return path
