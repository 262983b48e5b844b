"""First step: documents to token arrays, sorted by their place on the ring.

A unit takes a group of document files of one source and writes one file. Because it is sorted by ``key``, the next
step finds a bucket's documents in it as one slice, and the number of buckets can wait until the tokens are counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.store.cache import local_file
from pipeline.document import read_batches
from pipeline.ledger import Fate, fate
from pipeline.shards.format import token_type
from pipeline.shards.keys import held_numbers, ring_keys
from pipeline.tokenizer.model import Tokenizer

STAGE_NAME = "shards"
BATCH_DOCUMENTS = 512
"""Documents to a record batch: what a bucket's reader must touch at its ends."""

TOO_FEW_TOKENS = "too_few_tokens"
COLUMNS = ["id", "text", "url", "origin", "quality"]


SCORE = "score"
"""What documents are ranked by, where that is not their quality: a column of the step's files, of no shard."""


def tokens_schema(vocab_size: int, scored: bool = False) -> pa.Schema:
    return pa.schema(
        [
            pa.field("key", pa.uint64(), nullable=False),
            pa.field("choice", pa.uint64(), nullable=False),
            pa.field("held", pa.uint64(), nullable=False),
            pa.field("id", pa.binary(16), nullable=False),
            pa.field("url", pa.string()),
            pa.field("archive", pa.string()),
            pa.field("archive_offset", pa.int64()),
            pa.field("quality", pa.float32()),
            pa.field("tokens", pa.large_list(token_type(vocab_size)), nullable=False),
            *([pa.field(SCORE, pa.float32())] if scored else []),
        ]
    )


def scores_of(batch: pa.RecordBatch) -> np.ndarray:
    """What the documents of a token file are ranked by; NaN where a document has no score."""
    column = batch.column(SCORE if SCORE in batch.schema.names else "quality")
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)


class ScoreFile:
    """A score of the documents in one file, from the attributes beside it."""

    def __init__(self, url: str, column: str) -> None:
        # One file's ids and numbers, some dozen bytes a document.
        rows = pa.Table.from_batches(read_batches(url, columns=["id", column]))
        self._ids, self._scores = rows["id"].combine_chunks(), rows[column].cast(pa.float32(), safe=False)

    def of(self, ids: pa.Array) -> pa.Array:
        return self._scores.take(pc.index_in(ids, self._ids))


@dataclass
class Tokenised:
    """A group's documents as they come, before they are sorted."""

    source: str
    seed: int
    min_tokens: int
    held_bound: int
    scored: bool = False
    """Ranked by a score of their attributes, which each file's ``add`` is given."""
    tables: list[pa.Table] = field(default_factory=list)
    incoming: int = 0
    documents: int = 0
    tokens: int = 0
    held_documents: int = 0
    held_tokens: int = 0

    def add(self, batch: pa.RecordBatch, tokenizer: Tokenizer, scores: ScoreFile | None = None) -> list[Fate]:
        """Encode a batch of documents; returns the fates of those with too little in them."""
        self.incoming += batch.num_rows
        encoded = tokenizer.encode_batch(batch.column("text").to_pylist())
        ids, urls = batch.column("id").to_pylist(), batch.column("url").to_pylist()
        kept = [index for index, tokens in enumerate(encoded) if len(tokens) >= self.min_tokens]
        if kept:
            self._keep(batch.take(pa.array(kept)), [encoded[index] for index in kept], tokenizer, scores)
        least = self.min_tokens
        return [
            fate(
                STAGE_NAME,
                "dropped",
                TOO_FEW_TOKENS,
                ids[at],
                urls[at],
                self.source,
                score=len(tokens),
                threshold=least,
            )
            for at, tokens in enumerate(encoded)
            if len(tokens) < least
        ]

    def _keep(
        self, batch: pa.RecordBatch, encoded: list[list[int]], tokenizer: Tokenizer, scores: ScoreFile | None
    ) -> None:
        ids = batch.column("id").to_pylist()
        key, choice = ring_keys(ids, self.seed)
        whole = [[tokenizer.bos_id, *tokens, tokenizer.eos_id] for tokens in encoded]
        held = held_numbers(ids)
        lengths = np.fromiter(map(len, whole), np.int64, len(whole))
        below = held < self.held_bound
        self.documents += len(whole)
        self.tokens += int(lengths.sum())
        self.held_documents += int(below.sum())
        self.held_tokens += int(lengths[below].sum())
        origin = batch.column("origin")
        schema = tokens_schema(tokenizer.vocab_size, self.scored)
        column = scores.of(batch.column("id")) if scores is not None else pa.nulls(len(ids), pa.float32())
        self.tables.append(
            pa.table(
                {
                    "key": key,
                    "choice": choice,
                    "held": held,
                    "id": batch.column("id"),
                    "url": batch.column("url"),
                    "archive": origin.field("archive"),
                    "archive_offset": origin.field("offset"),
                    "quality": batch.column("quality"),
                    "tokens": pa.array(whole, schema.field("tokens").type),
                    **({SCORE: column} if self.scored else {}),
                },
                schema=schema,
            )
        )


def tokenise(url: str, tokenizer: Tokenizer, into: Tokenised, scores: ScoreFile | None = None) -> list[Fate]:
    """Add the documents of a file; returns the fates of those left out."""
    batches = read_batches(url, columns=COLUMNS, batch_rows=BATCH_DOCUMENTS)
    return [fate for batch in batches for fate in into.add(batch, tokenizer, scores)]


def write_sorted(tokenised: Tokenised, vocab_size: int, path: Path) -> None:
    """Write the group sorted by (key, id)."""
    schema = tokens_schema(vocab_size, tokenised.scored)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        if tokenised.tables:
            table = pa.concat_tables(tokenised.tables).combine_chunks()
            order = table.select(["key", "id"]).append_column("at", pa.array(np.arange(table.num_rows)))
            order = order.sort_by([("key", "ascending"), ("id", "ascending")]).column("at").combine_chunks()
            for start in range(0, table.num_rows, BATCH_DOCUMENTS):
                writer.write_table(table.take(order.slice(start, BATCH_DOCUMENTS)))


class TokenFile:
    """A sorted file, mapped into memory: only the batches that are asked for are touched."""

    def __init__(self, address: str) -> None:
        path = local_file(address)
        self.source = path.parent.name
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))

    def slices(self, low: int, high: int) -> Iterator[pa.RecordBatch]:
        """The documents with ``low <= key < high``, in order."""
        index = self._first_batch(low)
        while index < self._reader.num_record_batches:
            batch = self._reader.get_batch(index)
            keys = batch.column("key").to_numpy()
            begin = int(np.searchsorted(keys, np.uint64(low)))
            end = len(keys) if high > int(keys[-1]) else int(np.searchsorted(keys, np.uint64(high)))
            if end > begin:
                yield batch.slice(begin, end - begin)
            if end < len(keys):
                return
            index += 1

    def batches(self) -> Iterator[pa.RecordBatch]:
        for index in range(self._reader.num_record_batches):
            yield self._reader.get_batch(index)

    def _first_batch(self, low: int) -> int:
        """The first batch whose last key is not below ``low``."""
        begin, end = 0, self._reader.num_record_batches
        while begin < end:
            middle = (begin + end) // 2
            if int(self._reader.get_batch(middle).column("key")[-1].as_py()) < low:
                begin = middle + 1
            else:
                end = middle
        return begin
