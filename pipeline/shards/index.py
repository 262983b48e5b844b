"""The index stage: where any words stand in the training tokens.

For each shard, in ``data/train-00000.…``:

    tokens.npy, high.npy   its documents' tokens one document after another, the pieces of each joined again
    suffixes.npy           the places of these tokens in the order of what follows          (pipeline/shards/suffixes.py)
    nodes.npy, fences.npy  in which bits they differ there                        (pipeline/shards/phrases.py)
    pieces.npy             (place, row, start in the row, document) of every piece
    documents.arrow        where each document comes from

beside ``tokenizer.model``, ``unigrams.npy`` and ``index.json``: the index is read without the shards and finds words after
these are gone. A document begins with ``<s>``, which stands in no text: no match reaches from one into another. It takes a
little over seven bytes a token, and a half more with a vocabulary over 65,536, and some dozens a document.

A unit is a shard, and holds it in memory with about 15 bytes a token: as shards are bounded, so is this.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.config import Config
from infra.errors import InputError
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext, unit_id, unit_of_files
from infra.store.cache import local_file
from infra.store.files import write_bytes
from pipeline.shards.append import UNIGRAMS
from pipeline.shards.format import LINEAGE_SUFFIX, TRAIN
from pipeline.shards.reader import ShardSet
from pipeline.tokenizer.model import MODEL_FILE, Tokenizer

FORMAT_VERSION = 2
DESCRIPTION = "data/index.json"
ARRAYS = ("tokens", "high", "suffixes", "nodes", "fences", "pieces")
DOCUMENTS_SUFFIX = ".documents.arrow"
DOCUMENT_ROWS = 128
"""Documents to a compressed batch: what is read to learn of one."""
ORIGIN = ("document_id", "url", "source", "archive", "archive_offset", "quality")


class IndexConfig(Config):
    """There is nothing to choose."""


def _units(context: StageContext) -> Iterator[Unit]:
    shards, tokenizer = context.inputs["shards"], Tokenizer.load(context.inputs["tokenizer"].local("data"))
    made_with = str(shards.manifest.stats["tokenizer_digest"])
    if made_with != tokenizer.digest:
        raise InputError(
            f"the shards were made with tokenizer {made_with[:12]}, not with {tokenizer.digest[:12]}",
            where=context.inputs["tokenizer"].root,
            remedy="Index them with the tokenizer that made them, or run the shards stage with this one.",
        )
    for file in shards.files(f"data/{TRAIN}-", ".arrow"):
        name = Path(file.path).stem
        lineage = next(each for each in shards.files() if each.path == f"data/{name}{LINEAGE_SUFFIX}")
        identity = unit_id(file.path, file.digest, lineage.digest)
        yield unit_of_files(identity, {"name": name, "rows": file.rows}, [file, lineage], counted=False)


def _process(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.shards.phrases import high_of, nodes_of
    from pipeline.shards.suffixes import suffix_array

    name = str(unit.payload["name"])
    vocab_size = int(context.inputs["shards"].manifest.stats["vocab_size"])
    inputs = context.inputs["shards"]
    shard = ShardSet.of_files([local_file(inputs.url(f"data/{name}.arrow"))], TRAIN)
    lineage = pq.read_table(local_file(inputs.url(f"data/{name}{LINEAGE_SUFFIX}")))
    tokens, pieces, documents = joined(shard, lineage, vocab_size)
    with context.output(f"data/{name}{DOCUMENTS_SUFFIX}") as path:
        _write_documents(documents, path)
    suffixes = suffix_array(tokens, vocab_size)
    nodes, fences = nodes_of(tokens, suffixes, vocab_size)
    high = high_of(tokens, vocab_size)
    arrays: tuple[np.ndarray, ...] = (tokens.astype(np.uint16, copy=False), high, suffixes, nodes, fences, pieces)
    for kind, array in zip(ARRAYS, arrays, strict=True):
        with context.output(f"data/{name}.{kind}.npy") as path, path.open("wb") as stream:
            np.save(stream, array)
    context.metrics.update(tokens=len(tokens), documents=documents.num_rows)
    return Counts()


def joined(shard: ShardSet, lineage: pa.Table, vocab_size: int) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """A shard's documents one after another: their tokens, where each piece lies, and where each document comes from.

    A document that the shard holds several times stands there as often. Before a piece that neither begins a document nor goes
    on with the one before it stands a padding token.
    """
    start, end, offset, row = (
        lineage[name].to_numpy().astype(np.int64) for name in ("start", "end", "document_offset", "row")
    )
    documents, document = _documents(lineage)
    order = np.lexsort((offset, _copy(document, offset, row), document))
    start, offset, row, document, length = (each[order] for each in (start, offset, row, document, end - start))
    parted = offset > 0
    parted[1:] &= (document[1:] != document[:-1]) | (offset[1:] != offset[:-1] + length[:-1])
    place = np.cumsum(length + parted) - length
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    tokens = np.zeros(int(place[-1] + length[-1]) if len(order) else 0, dtype)
    for which in np.argsort(row, kind="stable").tolist():
        begin, size, first = int(place[which]), int(length[which]), int(start[which])
        tokens[begin : begin + size] = shard.tokens(int(row[which]))[first : first + size]
    return tokens, np.stack([place, row, start, document], axis=1).astype(np.uint32), documents


def _documents(lineage: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """The documents of a lineage, one row each in the order of their ids, and each piece's place among them."""
    ids = np.array(lineage["document_id"].to_pylist(), "S16")
    _, first, document = np.unique(ids, return_index=True, return_inverse=True)
    return lineage.select(ORIGIN).take(pa.array(first)), document.astype(np.int64)


def _copy(document: np.ndarray, offset: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Of pieces that are the same part of a document, which copy each belongs to."""
    order = np.lexsort((row, offset, document))
    first = np.ones(len(order), bool)
    first[1:] = (document[order][1:] != document[order][:-1]) | (offset[order][1:] != offset[order][:-1])
    at = np.arange(len(order))
    copies = np.empty(len(order), np.int64)
    copies[order] = at - np.maximum.accumulate(np.where(first, at, 0))
    return copies


def _write_documents(documents: pa.Table, path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, documents.schema, options=options) as writer:
        writer.write_table(documents, max_chunksize=DOCUMENT_ROWS)


def _finalize(context: StageContext) -> None:
    shards = context.inputs["shards"]
    done = {receipt.unit: receipt for receipt in context.receipts["index"]}
    parts: list[dict[str, Any]] = []
    first = 0
    for unit in _units(context):
        if unit.id in done:
            metrics = done[unit.id].metrics
            part = {"name": unit.payload["name"], "first_row": first}
            parts.append(part | {key: int(metrics[key]) for key in ("tokens", "documents")})
        first += int(unit.payload["rows"])  # type: ignore[arg-type] # a number
    tokens = sum(part["tokens"] for part in parts)
    written = sum(output.bytes for receipt in done.values() for output in receipt.outputs)
    for path in (UNIGRAMS, f"data/{MODEL_FILE}"):
        source = shards if path == UNIGRAMS else context.inputs["tokenizer"]
        with context.output(path) as target:
            target.write_bytes(local_file(source.url(path)).read_bytes())
    described = {
        "format": FORMAT_VERSION,
        "shards": f"{shards.name}/{shards.manifest.fingerprint}",
        "tokenizer_digest": shards.manifest.stats["tokenizer_digest"],
        "vocab_size": shards.manifest.stats["vocab_size"],
        "phases": [phase["sequences"] for phase in shards.manifest.stats["phases"]],
        "parts": parts,
    }
    with context.output(DESCRIPTION) as target:
        write_bytes(target, (json.dumps(described, indent=1, sort_keys=True) + "\n").encode())
    context.stats.update(
        tokens=tokens, shards=len(parts), bytes=written, bytes_per_token=round(written / max(tokens, 1), 3)
    )


STAGE = ShardStage(
    name="index",
    code_version=3,
    config=IndexConfig,
    reference="pipeline.shards.index:STAGE",
    inputs=lambda config: {"shards": "shards", "tokenizer": "tokenizer"},
    steps=(Step("index", _units, _process),),
    finalize=_finalize,
    description="Indexes the training tokens, so that any words are found in the documents they come from.",
)
