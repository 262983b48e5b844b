"""Reading token shards: rows come straight out of mapped memory, and every row knows its documents.

    shards = ShardSet.open(folder, "train", tokenizer.digest)
    batch = shards.rows(row_at(seed, epoch, positions, len(shards)))
    shards.documents(int(row))

A row's number counts through all shards of the split in the order of their names. The rows of a curriculum's phases
lie one after the other; ``phases`` says how many each has.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import InputError
from pipeline.shards.format import FORMAT_VERSION, LINEAGE_SUFFIX, TRAIN, split_of, validation_split


@dataclass(frozen=True)
class RowBatch:
    """Some rows. ``boundaries`` are the starts of the pieces of each row; ``bytes`` is there for validation splits."""

    input_ids: np.ndarray
    lengths: np.ndarray
    boundaries: list[np.ndarray]
    bytes: np.ndarray | None


@dataclass(frozen=True)
class Lineage:
    """Tokens ``start`` to ``end`` of ``row`` are a document's tokens from ``document_offset`` on."""

    row: int
    start: int
    end: int
    document_id: bytes
    document_offset: int
    url: str | None
    source: str
    archive: str | None
    archive_offset: int | None
    quality: float | None
    shard: str


@dataclass(frozen=True)
class _Shard:
    path: Path
    first_row: int
    phase: int
    batches: list[pa.RecordBatch]
    batch_ends: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.batch_ends[-1]) if len(self.batch_ends) else 0

    @property
    def lineage(self) -> Path:
        return self.path.with_name(self.path.stem + LINEAGE_SUFFIX)


@dataclass(frozen=True)
class ShardSet:
    """All shards of one split, opened for reading. Opening maps the files; it reads none of the rows."""

    split: str
    seq_len: int
    tokenizer_digest: str
    mixture: dict[str, float]
    shards: list[_Shard] = field(repr=False)
    _lineages: dict[Path, pa.Table] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path | str, split: str, tokenizer_digest: str | None = None) -> "ShardSet":
        """Open ``train`` or ``validation-<source>``. Raises InputError for shards of another tokenizer."""
        paths = _paths(Path(folder), split)
        if not paths:
            raise InputError(
                f"there are no shards of split {split!r}",
                where=str(folder),
                remedy=f"There are: {', '.join(splits(folder)) or 'none'}.",
            )
        return cls.of_files(paths, split, tokenizer_digest)

    @classmethod
    def of_files(cls, paths: Sequence[Path], split: str, tokenizer_digest: str | None = None) -> "ShardSet":
        """These shards of a split alone, in this order."""
        shards: list[_Shard] = []
        described: dict[str, Any] = {}
        first = 0
        for path in paths:
            schema, batches = _map(path)
            found = _metadata(schema, path)
            _check(found, described or found, tokenizer_digest, path)
            described = found
            ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)
            shards.append(_Shard(path, first, found.get("phase", 0), batches, ends))
            first += shards[-1].rows
        return cls(split, described["seq_len"], described["tokenizer_digest"], described["mixture"], shards)

    def __len__(self) -> int:
        last = self.shards[-1]
        return last.first_row + last.rows

    @property
    def phases(self) -> list[int]:
        """Rows of each phase of the curriculum, in order; one phase where there is no curriculum."""
        numbers = sorted({shard.phase for shard in self.shards})
        return [sum(shard.rows for shard in self.shards if shard.phase == number) for number in numbers]

    @property
    def lineages(self) -> list[Path]:
        """The files that say where rows come from, one a shard."""
        return [shard.lineage for shard in self.shards]

    def rows(self, indices: np.ndarray) -> RowBatch:
        """Rows by number, in the order asked for."""
        indices = np.asarray(indices, dtype=np.int64)
        ids = np.empty((len(indices), self.seq_len + 1), dtype=np.int64)
        lengths = np.empty(len(indices), dtype=np.int64)
        sizes = np.empty(len(indices), dtype=np.int64)
        boundaries: list[np.ndarray] = []
        for at, index in enumerate(indices.tolist()):
            batch, row = self._locate(index)
            ids[at] = _ids(batch, row)
            lengths[at] = batch.column("length")[row].as_py()
            boundaries.append(_boundaries(batch, row))
            if self._with_bytes:
                sizes[at] = batch.column("bytes")[row].as_py()
        return RowBatch(ids, lengths, boundaries, sizes if self._with_bytes else None)

    def tokens(self, row: int) -> np.ndarray:
        """One row without its padding, as a view into the mapped file (no copy)."""
        batch, at = self._locate(row)
        return _ids(batch, at)[: batch.column("length")[at].as_py()]

    def documents(self, row: int) -> list[Lineage]:
        """The documents behind one row, in the order of their tokens."""
        shard = self._shard_of(row)
        table = self._lineage_of(shard)
        rows = table["row"].to_numpy()
        begin, end = np.searchsorted(rows, [row - shard.first_row, row - shard.first_row + 1])
        return [_lineage(entry, shard) for entry in table.slice(begin, end - begin).to_pylist()]

    def _lineage_of(self, shard: _Shard) -> pa.Table:
        """A shard's lineage; the one asked for last stays in memory."""
        if shard.lineage not in self._lineages:
            self._lineages.clear()
            self._lineages[shard.lineage] = pq.read_table(shard.lineage, memory_map=True)
        return self._lineages[shard.lineage]

    def find_url(self, url: str) -> Iterator[Lineage]:
        """Every span whose document has this URL; streams over the lineage."""
        return self._find(pc.field("url") == url)

    def find_document(self, document_id: bytes) -> Iterator[Lineage]:
        """Every span of a document; streams over the lineage."""
        return self._find(pc.field("document_id") == pa.scalar(document_id, pa.binary(16)))

    def _find(self, condition: pc.Expression) -> Iterator[Lineage]:
        import pyarrow.dataset as pads  # and pandas with it: not for every rank

        for shard in self.shards:
            scanned = pads.dataset(str(shard.lineage), format="parquet")
            for batch in scanned.to_batches(filter=condition):
                yield from (_lineage(entry, shard) for entry in batch.to_pylist())

    @property
    def _with_bytes(self) -> bool:
        return any("bytes" in batch.schema.names for shard in self.shards for batch in shard.batches[:1])

    def _shard_of(self, row: int) -> _Shard:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside 0…{len(self) - 1}")
        # Empty shards share their first row with the next one: take the last that begins at or before the row.
        starts = [shard.first_row for shard in self.shards]
        return self.shards[int(np.searchsorted(starts, row, side="right")) - 1]

    def _locate(self, row: int) -> tuple[pa.RecordBatch, int]:
        shard = self._shard_of(row)
        local = row - shard.first_row
        index = int(np.searchsorted(shard.batch_ends, local, side="right"))
        return shard.batches[index], local - (int(shard.batch_ends[index - 1]) if index else 0)


def splits(folder: Path | str) -> list[str]:
    """The splits in a folder: ``train`` and one ``validation-<source>`` for each source."""
    names = {split_of(path.stem) for path in Path(folder).glob("*.arrow")}
    held_out = sorted(name for name in names if name.startswith(validation_split("")))
    return ([TRAIN] if TRAIN in names else []) + held_out


def _paths(folder: Path, split: str) -> list[Path]:
    return sorted((path for path in folder.glob("*.arrow") if split_of(path.stem) == split), key=lambda path: path.stem)


def _map(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    try:
        reader = pa.ipc.open_stream(pa.memory_map(str(path)))
        return reader.schema, list(reader)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"the shard is damaged ({error})", where=str(path), remedy="Run the shards stage again with --force."
        ) from error


def _metadata(schema: pa.Schema, path: Path) -> dict[str, Any]:
    raw = {key.decode(): json.loads(value) for key, value in (schema.metadata or {}).items()}
    version = raw.get("headwater.shards")
    if version != FORMAT_VERSION:
        raise InputError(
            "the file is not a token shard" if version is None else f"the shard has format {version}",
            where=str(path),
            remedy=f"This version reads format {FORMAT_VERSION}: run the shards stage again.",
        )
    return raw


def _check(found: dict[str, Any], first: dict[str, Any], wanted_digest: str | None, path: Path) -> None:
    if wanted_digest is not None and found["tokenizer_digest"] != wanted_digest:
        raise InputError(
            f"the shard was made with tokenizer {found['tokenizer_digest'][:12]}, not with {wanted_digest[:12]}",
            where=str(path),
            remedy="Its ids mean other text: run the shards stage with this tokenizer.",
        )
    if (found["seq_len"], found["tokenizer_digest"]) != (first["seq_len"], first["tokenizer_digest"]):
        raise InputError(
            "the shards of one split differ in sequence length or tokenizer",
            where=str(path),
            remedy="Run the shards stage again.",
        )


def _ids(batch: pa.RecordBatch, row: int) -> np.ndarray:
    column = batch.column("input_ids")
    width = column.type.list_size
    start = (column.offset + row) * width
    ids: np.ndarray = column.values.to_numpy()[start : start + width]
    return ids


def _boundaries(batch: pa.RecordBatch, row: int) -> np.ndarray:
    column = batch.column("boundaries")
    begin, end = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
    starts: np.ndarray = column.values.to_numpy()[begin:end].astype(np.int64)
    return starts


def _lineage(entry: dict[str, Any], shard: _Shard) -> Lineage:
    return Lineage(**{**entry, "row": entry["row"] + shard.first_row}, shard=shard.path.name)
