"""Second step: a bucket gathers its documents from every file, packs them into rows, and writes one shard.

Everything here is a function of the set of documents in the bucket: they are sorted by their place on the ring, so
neither the grouping of files nor the order of units can be seen in the result.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ledger import Fate, fate, ledger_writer
from pipeline.shards.format import LINEAGE_SCHEMA, Row
from pipeline.shards.keys import STRIDE, arc, copies
from pipeline.shards.order import row_at
from pipeline.shards.packing import DocumentPiece, pack, split
from pipeline.shards.repetition import Curve
from pipeline.shards.tokenise import SCORE, STAGE_NAME, TokenFile, scores_of

MIXTURE_CAP, REPETITION_CURVE = "mixture_cap", "repetition_curve"


@dataclass
class Bucket:
    """Documents (repetitions included) that become one shard."""

    places: list[np.ndarray] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)

    def add(self, batch: pa.RecordBatch, source: str, copy: int = 0) -> None:
        place = batch.column("key").to_numpy() + np.uint64((copy * STRIDE) % (1 << 64))
        table = pa.Table.from_batches([batch])
        table = table.drop_columns([name for name in table.column_names if name in ("key", "choice", "held", SCORE)])
        self.places.append(place)
        self.tables.append(
            table.append_column("source", pa.array([source] * len(place), pa.string())).append_column(
                "copy", pa.array(np.full(len(place), copy, np.int32))
            )
        )

    def documents(self) -> pa.Table | None:
        """All of it in the order of the ring."""
        if not self.tables:
            return None
        order = pa.table(
            {
                "place": np.concatenate(self.places),
                "id": pa.concat_tables([table.select(["id", "copy"]) for table in self.tables])["id"],
                "copy": pa.concat_tables([table.select(["copy"]) for table in self.tables])["copy"],
                "at": np.arange(sum(table.num_rows for table in self.tables)),
            }
        ).sort_by([("place", "ascending"), ("id", "ascending"), ("copy", "ascending")])
        return pa.concat_tables(self.tables).combine_chunks().take(order["at"].combine_chunks())


def gather(
    files: Iterable[TokenFile],
    bucket: int,
    buckets: int,
    rates: Mapping[str, tuple[float, float]],
    bounds: Mapping[str, int],
    curves: Mapping[str, Curve],
    last: bool = True,
) -> tuple[Bucket, list[Fate]]:
    """A bucket's training documents: those that a phase takes between two rates of their source.

    By a curve each document has rates of its own. In the ``last`` phase also a fate for each that no phase took.
    """
    gathered, left_out = Bucket(), []
    for file in files:
        since, rate = rates[file.source]
        curve = curves.get(file.source)
        least, most = (curve.least, curve.most) if curve else (1.0, 1.0)
        for copy in range(int(since * least), max(1, math.ceil(rate * most))):
            for low, high in arc(bucket, buckets, copy):
                for batch in file.slices(low, high):
                    train = batch.filter(pa.array(batch.column("held").to_numpy() >= bounds[file.source]))
                    choice = train.column("choice").to_numpy()
                    times = curve.of_scores(scores_of(train)) if curve else np.ones(len(choice))
                    reached = copies(choice, rate * times) > copy
                    taken = reached & (copies(choice, since * times) <= copy)
                    if taken.any():
                        gathered.add(train.filter(pa.array(taken)), file.source, copy)
                    if copy == 0 and last:
                        left_out += _left_out(train, ~reached, file.source, rate, times, curve)
    return gathered, left_out


def gather_held_out(files: Iterable[TokenFile], bound: int) -> Bucket:
    gathered = Bucket()
    for file in files:
        for batch in file.batches():
            held = batch.filter(pa.array(batch.column("held").to_numpy() < bound))
            if held.num_rows:
                gathered.add(held, file.source)
    return gathered


def _left_out(
    batch: pa.RecordBatch, rows: np.ndarray, source: str, rate: float, times: np.ndarray, curve: Curve | None
) -> list[Fate]:
    """The curve left a document out if it would have done so of a whole pass; otherwise the mixture did."""
    choice = batch.column("choice").to_numpy()
    by_curve = copies(choice, times) == 0
    scores = scores_of(batch)
    fates = []
    for row in np.flatnonzero(rows):
        id, url = batch.column("id")[row].as_py(), batch.column("url")[row].as_py()
        if curve is not None and by_curve[row]:
            score = None if np.isnan(scores[row]) else float(scores[row])
            what = f"{curve.score} of {source}" if score is not None else f"documents of {source} without {curve.score}"
            detail = f"the curve takes this {what} {times[row]:.4g} times"
            fates.append(fate(
                STAGE_NAME, "dropped", REPETITION_CURVE, id, url, source,
                score=score, threshold=curve.threshold, detail=detail,
            ))  # fmt: skip
        else:
            own = rate * float(times[row])
            detail = f"the mixture takes {own:.4f} of {source}" + (" with this score" if curve else "")
            fates.append(fate(
                STAGE_NAME, "dropped", MIXTURE_CAP, id, url, source,
                score=int(choice[row]) / 2**64, threshold=own, detail=detail,
            ))  # fmt: skip
    return fates


@dataclass(frozen=True)
class Packed:
    """Rows over the documents of a bucket."""

    documents: pa.Table
    tokens: np.ndarray
    starts: np.ndarray
    rows: Sequence[Sequence[DocumentPiece]]

    def of_piece(self, piece: DocumentPiece) -> np.ndarray:
        start = int(self.starts[piece.document]) + piece.offset
        return self.tokens[start : start + piece.length]

    def row_sources(self) -> dict[str, int]:
        """Tokens by source."""
        lengths = np.diff(self.starts)
        sources = np.asarray(self.documents["source"].to_pylist(), dtype=object)
        return {str(source): int(lengths[sources == source].sum()) for source in sorted(set(sources))}


def pack_documents(documents: pa.Table | None, capacity: int, seed: int, bucket: int = 0) -> Packed | None:
    """Pack the documents of a bucket and shuffle its rows."""
    if documents is None or documents.num_rows == 0:
        return None
    column = documents["tokens"].combine_chunks()
    starts = column.offsets.to_numpy()
    rows = pack(split(np.diff(starts), capacity), capacity)
    order = row_at(seed, bucket, np.arange(len(rows)), len(rows))
    return Packed(documents, column.values.to_numpy(), starts, [rows[index] for index in order])


def shard_rows(packed: Packed, token_bytes: np.ndarray | None) -> Iterator[Row]:
    """Rows to write. With ``token_bytes``, each says how many bytes its targets stand for.

    A piece's first token has nothing before it that belongs to its document: it is no target.
    """
    for members in packed.rows:
        pieces = [packed.of_piece(piece) for piece in members]
        size = None if token_bytes is None else sum(int(token_bytes[tokens[1:]].sum()) for tokens in pieces)
        yield Row(pieces, size)


def write_lineage(packed: Packed | None, path: Path) -> None:
    """Where every span comes from, in row order."""
    with pq.ParquetWriter(path, LINEAGE_SCHEMA, compression="zstd", compression_level=3) as writer:
        if packed is None:
            return
        flat = [(row, piece) for row, members in enumerate(packed.rows) for piece in members]
        pieces = [piece for _, piece in flat]
        rows = np.fromiter((row for row, _ in flat), np.int64, len(flat))
        lengths = np.fromiter((piece.length for piece in pieces), np.int64, len(flat))
        ends = np.cumsum(lengths)
        row_first = np.searchsorted(rows, rows)  # index of the first piece of each piece's row
        starts = ends - lengths - (ends - lengths)[row_first]
        # Without the tokens: a document of many pieces would be copied whole for each of them.
        origins = packed.documents.drop_columns(["tokens"])
        documents = origins.take(pa.array([piece.document for piece in pieces], pa.int64()))
        table = pa.table(
            {
                "row": rows,
                "start": starts.astype(np.int32),
                "end": (starts + lengths).astype(np.int32),
                "document_id": documents["id"],
                "document_offset": np.fromiter((piece.offset for piece in pieces), np.int64, len(flat)),
                **{name: documents[name] for name in ("url", "source", "archive", "archive_offset", "quality")},
            },
            schema=LINEAGE_SCHEMA,
        )
        writer.write_table(table, row_group_size=1 << 16)


def write_fates(fates: Iterable[Fate], path: Path) -> None:
    """One ledger file, ordered by id so that it does not tell the order of the input."""
    with ledger_writer(path) as writer:
        for fate in sorted(fates, key=lambda fate: fate["id"]):
            writer.write(fate)
