"""Reading the documents of a text set, and keeping the smallest-ranked of them."""

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import InputError
from pipeline.classifier.config import TextSet
from pipeline.classifier.corpus import Sample, rank_of
from pipeline.classifier.model import LONGEST
from pipeline.document import read_batches
from pipeline.language import LanguageDetector
from pipeline.sources.tables import rows_of_file

SAMPLE_SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("good", pa.bool_()),
        ("id", pa.binary()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("text", pa.large_string()),
    ]
)
DOCUMENT_COLUMNS = ["id", "url", "source", "language", "text"]


def smallest(samples: Iterator[Sample], number: int) -> list[Sample]:
    """The ``number`` samples of lowest rank, in that order; memory holds no more."""
    return heapq.nsmallest(number, samples, key=lambda sample: (sample.rank, sample.id))


def documents(url: str, good: bool, seed: int) -> Iterator[Sample]:
    """The documents of a file of the ingest dataset."""
    for batch in read_batches(url, DOCUMENT_COLUMNS, 256):
        for row in batch.to_pylist():
            yield Sample(
                rank_of(seed, row["id"]), good, row["id"], row["url"] or "", row["source"], row["language"] or "",
                row["text"][:LONGEST],
            )  # fmt: skip


def texts_of_file(texts: TextSet, good: bool, seed: int) -> Iterator[Sample]:
    """The texts of a file from outside. A document's id is a digest of its text."""
    for row in rows_of_file(texts.file):
        text = row.get(texts.column)
        if isinstance(text, bytes):  # no UTF-8, or of a column without a charset
            text = text.decode("utf-8", "replace")
        if not isinstance(text, str):
            raise InputError(
                f"a row has no text in column {texts.column!r}",
                where=texts.file,
                remedy=f"Columns there: {', '.join(map(str, row))}; name the right one as column.",
            )
        if _wanted(row, texts.where):
            id = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            yield Sample(rank_of(seed, id), good, id, str(row.get("url") or ""), texts.file, "", text[:LONGEST])


def _wanted(row: dict[str, Any], where: str) -> bool:
    column, _, value = where.partition("=")
    return not where or str(row.get(column)) == value


def with_languages(samples: list[Sample], detector: LanguageDetector) -> list[Sample]:
    """The same documents, with the language that is detected where the source does not say it."""
    detected = detector.detect([sample.text for sample in samples])
    return [
        sample if sample.language else replace(sample, language=language or "")
        for sample, (language, _) in zip(samples, detected, strict=True)
    ]


def write_samples(samples: list[Sample], path: Any) -> None:
    columns = {name: [getattr(sample, name) for sample in samples] for name in SAMPLE_SCHEMA.names}
    pq.write_table(pa.table(columns, schema=SAMPLE_SCHEMA), path, compression="zstd")


def read_samples(url: str) -> Iterator[Sample]:
    for batch in read_batches(url, batch_rows=1024):
        for row in batch.to_pylist():
            yield Sample(**row)
