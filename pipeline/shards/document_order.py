"""An order of rows that corpora share as far as they share documents: for models that are to be compared.

Shuffled by their numbers (pipeline.shards.order) the rows of two corpora come at unrelated times once a single document is left
out of one, and the chance of the order stands between their models. Here a row's time follows from what the row holds:

    name      of a row: a hash of the URL (or id) and the offset of its longest piece
    chosen    of an epoch that training does not finish, the rows whose names hash lowest with seed and epoch: the same
              ones of both corpora, but for what the filtered documents leave room for
    order     by a second hash. What is not chosen comes after it, and the phases of a curriculum follow one another

Unlike the shuffle it must know all names, 16 bytes a row from one reading of the lineage: labs are small.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.shards.order import mix, spans
from pipeline.shards.reader import ShardSet

_COLUMNS = ["row", "start", "end", "document_id", "document_offset", "url"]


@dataclass(frozen=True)
class DocumentOrder:
    """The order of a training that consumes ``total`` sequences. Like the shuffle it goes on beyond them (faults skip some)."""

    seed: int
    phases: Sequence[int]
    names: np.ndarray
    """``[rows]`` of 64 bits."""
    total: int
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def rows(self, consumed: np.ndarray) -> np.ndarray:
        """The rows for running numbers of consumed sequences, across epochs."""
        epochs, positions = np.divmod(np.asarray(consumed, dtype=np.int64), len(self.names))
        found = np.empty(positions.shape, dtype=np.int64)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            found[inside] = self._epoch(int(epoch))[positions[inside]]
        return found

    def consumed(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """The running numbers under which some rows come in an epoch: the inverse of ``rows``."""
        positions = np.empty(len(self.names), dtype=np.int64)
        positions[self._epoch(epoch)] = np.arange(len(self.names))
        return epoch * len(self.names) + positions[np.asarray(rows, dtype=np.int64)]

    def _epoch(self, epoch: int) -> np.ndarray:
        """All rows in their order; that of the epoch asked for last stays in memory."""
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = np.concatenate(list(self._phases(epoch)))
        return self._epochs[epoch]

    def _phases(self, epoch: int) -> Iterator[np.ndarray]:
        left = self.total - epoch * len(self.names)
        salt = mix(np.array([self.seed, epoch], dtype=np.uint64) + np.uint64(1))
        for start, size in spans(self.phases):
            names = self.names[start : start + size]
            choice, place = (mix(mix(names ^ salt[0]) + salt[1] + np.uint64(which)) for which in (1, 2))
            chosen = np.zeros(size, dtype=bool)
            chosen[np.argsort(choice, kind="stable")[: max(0, left - start)]] = True
            yield start + np.lexsort((place, ~chosen))


def document_order(shards: ShardSet, seed: int, total: int) -> DocumentOrder:
    """The order of the rows of a split for a training that consumes so many of them."""
    return DocumentOrder(seed, shards.phases, np.concatenate([_names(path) for path in shards.lineages]), total)


def _names(lineage: Path) -> np.ndarray:
    """The names of a shard's rows, from its spans."""
    table = pq.read_table(lineage, columns=_COLUMNS)
    row = table["row"].to_numpy()
    longest = np.lexsort((table["start"].to_numpy() - table["end"].to_numpy(), row))
    first = np.ones(len(row), dtype=bool)
    first[1:] = row[1:] != row[:-1]  # the rows stand in order, before and after
    spans_of_rows = table.take(longest[first])
    words = (
        f"{span['url'] or span['document_id'].hex()} {span['document_offset']}".encode("utf-8", "surrogatepass")
        for span in spans_of_rows.to_pylist()
    )
    hashes = b"".join(hashlib.blake2b(word, digest_size=8).digest() for word in words)
    return np.frombuffer(hashes, dtype="<u8").astype(np.uint64)
