"""The files of a shard set, and how rows are written.

    data/train-00000.arrow               one row a sequence (Arrow IPC stream; datasets.Dataset.from_file opens it)
    data/train-00000.lineage.parquet     where every span of every row comes from
    data/validation-<source>.arrow       the same, with the bytes that a row's targets stand for
    data/validation-<source>.0001.arrow  held-out rows that a later version appended
    data/unigrams.npy                    how often each token stands in the training rows

A row holds ``seq_len + 1`` ids: inputs are all but the last, targets all but the first. Padding stands only at the
end, ``length`` says where it begins. ``boundaries`` are the starts of the document pieces; the first is 0.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

FORMAT_VERSION = 1
TRAIN = "train"
LINEAGE_SUFFIX = ".lineage.parquet"
BATCH_ROWS = 2048

LINEAGE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("document_id", pa.binary(16), nullable=False),
        pa.field("document_offset", pa.int64(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("archive", pa.string()),
        pa.field("archive_offset", pa.int64()),
        pa.field("quality", pa.float32()),
    ],
    metadata={"headwater.lineage": "1"},
)
"""``row`` counts within its shard; tokens ``start`` to ``end`` of the row are the document's tokens from
``document_offset`` on, where a document's tokens are ``<s>``, its text and ``</s>``."""


def validation_split(source: str) -> str:
    return f"validation-{source}"


def part_name(split: str, number: int) -> str:
    """The name of a split's ``number``-th file, without its suffix."""
    if split == TRAIN:
        return f"{TRAIN}-{number:05d}"
    return f"{split}.{number:04d}" if number else split


def split_of(stem: str) -> str:
    """The split that a file of this name belongs to: the inverse of ``part_name``. Source names have no dots."""
    return TRAIN if stem.startswith(f"{TRAIN}-") else stem.split(".")[0]


def token_type(vocab_size: int) -> pa.DataType:
    return pa.uint16() if vocab_size < 65_536 else pa.uint32()


def shard_schema(vocab_size: int, seq_len: int, metadata: Mapping[str, Any], with_bytes: bool) -> pa.Schema:
    fields = [
        pa.field("input_ids", pa.list_(token_type(vocab_size), seq_len + 1), nullable=False),
        pa.field("boundaries", pa.list_(pa.int32()), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
    ]
    if with_bytes:
        fields.append(pa.field("bytes", pa.int32(), nullable=False))
    described = {"headwater.shards": FORMAT_VERSION, "seq_len": seq_len, **metadata}
    return pa.schema(fields, metadata={key: json.dumps(value, sort_keys=True) for key, value in described.items()})


@dataclass(frozen=True)
class Row:
    """One sequence before it is written: the tokens of its pieces, in order."""

    pieces: Sequence[np.ndarray]
    bytes: int | None = None


def write_shard(path: Path, schema: pa.Schema, rows: Iterator[Row], pad_id: int) -> None:
    """Write rows in batches; memory stays at one batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                writer.write_batch(_record_batch(batch, schema, pad_id))
                batch = []
        if batch:
            writer.write_batch(_record_batch(batch, schema, pad_id))


def _record_batch(rows: Sequence[Row], schema: pa.Schema, pad_id: int) -> pa.RecordBatch:
    ids_type = schema.field("input_ids").type
    width = ids_type.list_size
    ids = np.full((len(rows), width), pad_id, dtype=ids_type.value_type.to_pandas_dtype())
    starts: list[np.ndarray] = []
    lengths = np.empty(len(rows), dtype=np.int32)
    for index, row in enumerate(rows):
        ends = np.cumsum([len(piece) for piece in row.pieces], dtype=np.int32)
        lengths[index] = ends[-1]
        ids[index, : ends[-1]] = np.concatenate(row.pieces)
        starts.append(np.concatenate([np.zeros(1, np.int32), ends[:-1]]))
    offsets = np.concatenate([[0], np.cumsum([len(entry) for entry in starts])]).astype(np.int32)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), type=ids_type),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(starts))),
        pa.array(lengths),
    ]
    if "bytes" in schema.names:
        columns.append(pa.array([row.bytes for row in rows], pa.int32()))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
