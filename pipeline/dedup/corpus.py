"""The documents a run compares, numbered.

Every file of documents is a *piece*; documents are numbered through all pieces, new ones first (the files of the input
in path order), then those of earlier runs (``previous``). Numbers are how the steps speak about documents; they appear
in no published file. A *block* is a fixed range of numbers: the unit of work of every step that is grouped by document.

Each piece has three flat arrays: ``cards`` (one row a document, columns below), ``signatures`` (uint32, a row a
document) and ``shingles`` (uint32, all documents one after another). For new documents the sign step writes them, for
earlier ones they are that run's published index.
"""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.stage import StageContext, Unit
from infra.store.dataset import Dataset
from pipeline.dedup.config import DOCUMENTS, DedupConfig
from pipeline.dedup.flat import RangeReader, read_ranges
from pipeline.dedup.index import open_previous

ID_A, ID_B, RANK_A, RANK_B, URL_A, URL_B, EXACT_A, EXACT_B, GROUP, FIRST, COUNT, LENGTH = range(12)
CARD = 12
"""Columns of a card: the document's id and its rank (smaller stays) in two words each; hashes of its URL (zero: none) and
of its text; the group it is compared in; where its shingles begin and how many they are; its length in characters."""


@dataclass(frozen=True)
class CorpusFile:
    """One file of documents. ``arrays`` is the address of its flat arrays less their suffix."""

    name: str
    base: int
    rows: int
    arrays: str
    snapshot: str | None
    """None for documents of this run, else the snapshot they were kept in."""
    levels: tuple[int, ...] = ()
    """Of an earlier run's: the number here of each level whose keys lie beside its arrays (``.own``), in the order there."""


@dataclass(frozen=True)
class Corpus:
    pieces: tuple[CorpusFile, ...]
    new: int
    """Documents numbered below this are new."""
    total: int
    block: int
    """Documents in a block."""

    @property
    def blocks(self) -> int:
        """Blocks that hold new documents."""
        return -(-self.new // self.block)

    @property
    def all_blocks(self) -> int:
        return -(-self.total // self.block)

    def block_of(self, documents: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The block each document is in."""
        return (documents // np.uint64(self.block)).astype(np.int64)

    def blocks_of(self, piece: CorpusFile) -> range:
        """The blocks a piece reaches into."""
        return range(piece.base // self.block, (piece.base + piece.rows - 1) // self.block + 1)

    def piece_of(self, unit: Unit) -> CorpusFile:
        """The piece a unit is about (``piece`` and, for earlier ones, ``snapshot`` in its payload)."""
        wanted = unit.payload["piece"], unit.payload.get("snapshot")
        return next(piece for piece in self.pieces if (piece.name, piece.snapshot) == wanted)

    def where(self, documents: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The piece each document is in."""
        bases = np.array([piece.base for piece in self.pieces], np.uint64)
        return np.searchsorted(bases, documents, side="right").astype(np.int64) - 1

    def cards(self, documents: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The cards of documents given in ascending order."""
        rows = np.empty((len(documents), CARD), np.uint64)
        for piece, part in self._by_piece(documents):
            begin = (documents[part] - np.uint64(piece.base)).astype(np.int64) * CARD
            with RangeReader(f"{piece.arrays}.cards") as reader:
                rows[part] = read_ranges(reader, np.uint64, begin, np.full(len(begin), CARD)).reshape(-1, CARD)
        return rows

    def shingles(self, documents: NDArray[np.uint64], cards: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The shingles of documents given in ascending order, one after another."""
        sizes = cards[:, COUNT].astype(np.int64)
        out = np.empty(int(sizes.sum()), np.uint32)
        filled = 0
        for piece, part in self._by_piece(documents):
            with RangeReader(f"{piece.arrays}.shingles") as reader:
                found = read_ranges(reader, np.uint32, cards[part, FIRST].astype(np.int64), sizes[part])
            out[filled : filled + len(found)] = found
            filled += len(found)
        return out

    def _by_piece(self, documents: NDArray[np.uint64]) -> list[tuple[CorpusFile, slice]]:
        where = self.where(documents)
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(where)) + 1, [len(where)]]) if len(where) else np.array([0])
        return [(self.pieces[where[low]], slice(int(low), int(high))) for low, high in itertools.pairwise(cuts)]


COMPARE, DECIDE = "compare", "decide"
"""The steps inside which others may have run (``pipeline.dedup.small``)."""


def files_of(context: StageContext, step: str, suffix: str) -> list[str]:
    """The files of an earlier step, wherever it ran."""
    prefix = f"steps/{step}/"
    return sorted(
        f"{context.work_root}/{output.path}"
        for name in (step, COMPARE, DECIDE)
        for receipt in context.receipts.get(name, ())
        for output in receipt.outputs
        if output.path.startswith(prefix) and output.path.endswith(suffix)
    )


def number_in(unit: Unit, name: str) -> int:
    """A whole number in a unit's payload."""
    value = unit.payload[name]
    if not isinstance(value, int):
        raise TypeError(f"unit {unit.id} has {name} = {value!r}")
    return value


def corpus_of(config: DedupConfig, inputs: Mapping[str, Dataset], work_root: str) -> Corpus:
    """The corpus of a run; the same in every process."""
    return _number(config, inputs[DOCUMENTS].root, work_root)


@functools.lru_cache(maxsize=4)
def _number(config: DedupConfig, root: str, work_root: str) -> Corpus:
    pieces: list[CorpusFile] = []
    total = 0
    for file in Dataset.open(root).files("data/", ".parquet"):
        name = file.path.removeprefix("data/").removesuffix(".parquet")
        pieces.append(CorpusFile(name, total, file.rows or 0, f"{work_root}/steps/sign/{name}", None))
        total += file.rows or 0
    new = total
    for earlier in open_previous(config, root):
        for name, rows in earlier.pieces:
            pieces.append(
                CorpusFile(name, total, rows, f"{earlier.root}/index/{name}", earlier.snapshot, earlier.levels)
            )
            total += rows
    # Empty pieces would share their base with the next one, which searchsorted could not tell apart.
    return Corpus(tuple(piece for piece in pieces if piece.rows), new, total, config.block_documents)
