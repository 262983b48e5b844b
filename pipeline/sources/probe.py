"""A look at a source before it is read: a few of its records in bounded time, and what share of the source they are.

Formats with places to start at are read at some places chosen by the archives' names; of formats that must be read from
their beginning, the first half megabyte is read as if it were all (the record at which it ends does not count). What can
only be had over the network is not looked at.
"""

import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from infra.errors import InputError
from infra.store.dataset import Dataset
from infra.store.files import is_local
from pipeline.document import Document
from pipeline.sources.contract import Archive, Outcome, Part, Reading, SourceConfig, is_fate
from pipeline.sources.files import dataset_role, find_archives, is_http, open_archive
from pipeline.sources.multistream import is_multistream
from pipeline.sources.records import GZIP_MAGIC, first_bytes
from pipeline.sources.registry import SOURCES

PIECE_BYTES = 1_000_000
HEAD_BYTES = 500_000
"""Enough for one block of a bz2 file."""
PIECES = 3
PARQUET_ROWS = 500


@dataclass(frozen=True)
class Probe:
    """What was seen: records and documents, and how many times as much the source holds."""

    records: int
    documents: list[Document]
    seconds: float
    scale: float


def probe(reading: Reading, inputs: Mapping[str, Dataset], seconds: float) -> Probe | None:
    """Some of the source's records. None where they cannot be had in this time, or not without the network."""
    source = reading.source
    archives = _archives(source, inputs)
    if archives is None:
        return None
    total = sum(archive.size for archive in archives)
    chosen = sorted(archives, key=lambda archive: _rank(archive.name))[:PIECES]
    deadline = time.monotonic() + seconds
    started = time.monotonic()
    read = 0.0
    outcomes: list[Outcome] = []
    for number, archive in enumerate(itertools.islice(itertools.cycle(chosen), PIECES)):
        if number >= len(chosen) and archive.size <= PIECE_BYTES:
            continue
        found, size = _piece(archive, number, reading, deadline)
        outcomes += found
        read += size
    if not read or not outcomes:
        return None
    kept = [outcome for outcome in outcomes if not is_fate(outcome)]
    return Probe(len(outcomes), kept, time.monotonic() - started, max(1.0, total / read))


def size_of(source: SourceConfig, inputs: Mapping[str, Dataset]) -> int | None:
    """Bytes of all its archives; None where that takes the network."""
    archives = _archives(source, inputs)
    return None if archives is None else sum(archive.size for archive in archives)


def _archives(source: SourceConfig, inputs: Mapping[str, Dataset]) -> list[Archive] | None:
    listed = SOURCES[source.kind].listed and not is_http(source.address)
    local = dataset_role(source.address) is not None or is_local(source.address)
    return find_archives(source.address, inputs, folders=source.kind == "code") if listed and local else None


def _piece(archive: Archive, number: int, reading: Reading, deadline: float) -> tuple[Sequence[Outcome], float]:
    """Records of one piece of an archive, and how many of its bytes they stand for: 0 where that cannot be told."""
    read = SOURCES[reading.source.kind].read
    part = Part(archive, 0, archive.size)
    if archive.size <= PIECE_BYTES:
        found, ended = _until(read(part, reading), deadline)
        return (found, float(archive.size)) if ended else ([], 0.0)
    if _cut_anywhere(archive, reading.source):
        start = int(_rank(f"{archive.name} {number}") / 2**64 * (archive.size - PIECE_BYTES))
        part = Part(archive, start, start + PIECE_BYTES)
        found, ended = _until(read(part, reading), deadline)
        return found, float(PIECE_BYTES if ended else _reach(found, start))
    if number:
        return [], 0.0
    if archive.name.endswith(".parquet"):
        with open_archive(archive) as stream:
            rows = pq.ParquetFile(stream).metadata.num_rows
        found, _ = _until(itertools.islice(read(part, reading), PARQUET_ROWS), deadline)
        return found, archive.size * len(found) / max(1, rows)
    if Path(archive.url).is_dir() or first_bytes(open_archive(archive)).startswith(b"PK"):
        found, ended = _until(read(part, reading), deadline)
        return (found, float(archive.size)) if ended else ([], 0.0)
    return _head(archive, reading, deadline)


def _head(archive: Archive, reading: Reading, deadline: float) -> tuple[Sequence[Outcome], float]:
    with tempfile.TemporaryDirectory(prefix="headwater-probe-") as folder:
        path = Path(folder) / Path(archive.name).name
        with open_archive(archive) as stream:
            path.write_bytes(stream.read(HEAD_BYTES))
        cut = replace(archive, url=str(path), size=HEAD_BYTES)
        with suppress(InputError):
            found, ended = _until(SOURCES[reading.source.kind].read(Part(cut, 0, HEAD_BYTES), reading), deadline)
            if found and is_fate(found[-1]) and found[-1]["verdict"] == "failed":
                found = found[:-1]
            return (found, float(HEAD_BYTES)) if ended else ([], 0.0)
    return [], 0.0


def _cut_anywhere(archive: Archive, source: SourceConfig) -> bool:
    if source.kind in ("warc", "wet"):
        return first_bytes(open_archive(archive)) == GZIP_MAGIC
    if source.kind == "wikipedia":
        with open_archive(archive) as stream:
            return is_multistream(stream)
    return False


def _until(outcomes: Iterator[Outcome], deadline: float) -> tuple[list[Outcome], bool]:
    """What comes in time, and whether it came to its end."""
    found: list[Outcome] = []
    for outcome in outcomes:
        found.append(outcome)
        if time.monotonic() > deadline:
            return found, False
    return found, True


def _reach(found: Sequence[Outcome], start: int) -> int:
    ends = [outcome["origin"]["offset"] + outcome["origin"]["length"] for outcome in found if not is_fate(outcome)]
    return max(ends, default=start) - start


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big")
