"""A look at a source before it is read: a few of its records in bounded time, and what share of the source they are.

Formats with places to start at are read at some places chosen by the archives' names; of formats that must be read from
their beginning, the first half megabyte is read as if it were all (the record at which it ends does not count). Of a crawl
by name, and of archives on a web server, ranges of three archives are fetched; a folder of the ``datasets`` library is
looked at as the files it is. Buckets, captures of a domain and datasets of the hub are not looked at.
"""

import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow.parquet as pq

from infra.errors import InputError
from infra.store.address import dataset_file
from infra.store.dataset import Dataset
from infra.store.files import is_local
from pipeline.document import Document
from pipeline.extract.page import Page, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.sources import common_crawl, hugging_face, warc, wikipedia
from pipeline.sources.common_crawl import CommonCrawlSource
from pipeline.sources.contract import Archive, Outcome, Part, Reading, Salvage, SourceConfig, is_fate
from pipeline.sources.files import find_archives, open_archive
from pipeline.sources.http import HttpFile, Patience, is_http
from pipeline.sources.hugging_face import HuggingFaceSource
from pipeline.sources.records import can_start_within
from pipeline.sources.registry import reader_of

PIECE_BYTES = 1_000_000
HEAD_BYTES = 500_000
"""Enough for one block of a bz2 file."""
PIECES = 3
PARQUET_ROWS = 500
PAGES = ("warc", "wet")
BRIEF = Patience(tries=2, first_pause_s=0.5, longest_pause_s=2.0, silence_s=5.0)
"""A look is not worth a long wait."""


@dataclass(frozen=True)
class Probe:
    """What was seen: records and documents, and how many times as much the source holds."""

    records: int
    documents: list[Document]
    seconds: float
    scale: float


def probe(reading: Reading[Any], inputs: Mapping[str, Dataset], seconds: float) -> Probe | None:
    """Some of the source's records. None where they cannot be had in this time, or not without the network."""
    stored = _stored(reading.source, inputs) or _on_server(reading.source)
    if stored is None:
        return None
    # A piece has no checksum at its end.
    salvage = {"salvage": True} if isinstance(stored.source, Salvage) else {}
    reading = replace(reading, source=stored.source.model_copy(update=salvage))
    archives = stored.archives
    chosen = [_sized(archive) for archive in sorted(archives, key=lambda archive: _rank(archive.name))[:PIECES]]
    total = sum(archive.size for archive in archives)
    if not total:  # nobody lists the sizes of what is on a server
        total = sum(archive.size for archive in chosen) * len(archives) // len(chosen)
    _load(reading)
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
    stored = _stored(source, inputs)
    return None if stored is None else sum(archive.size for archive in stored.archives)


@dataclass(frozen=True)
class _Stored:
    """A source as the files it consists of, with the kind that reads such files."""

    source: SourceConfig
    archives: list[Archive]


def _stored(source: SourceConfig, inputs: Mapping[str, Dataset]) -> _Stored | None:
    """None where it takes the network."""
    if isinstance(source, HuggingFaceSource):
        return _dataset_files(source) if Path(source.address).is_dir() else None
    if isinstance(source, CommonCrawlSource):
        if source.domain or is_http(source.mirror) or not is_local(source.mirror):
            return None
        return _Stored(_as(source, source.content), [_sized(part.archive) for part in common_crawl.parts(source, [])])
    local = dataset_file(source.address) is not None or (not is_http(source.address) and is_local(source.address))
    reader = reader_of(source.kind)
    return (
        _Stored(source, find_archives(source.address, inputs, folders=reader.folders))
        if reader.listed and local
        else None
    )


def _on_server(source: SourceConfig) -> _Stored | None:
    """A crawl's archives, or one archive, on a web server: their sizes are not known yet."""
    if isinstance(source, CommonCrawlSource) and not source.domain and is_http(source.mirror):
        parts = common_crawl.parts(source, [], BRIEF)
        return _Stored(_as(source, source.content), [part.archive for part in parts])
    if source.kind in PAGES and is_http(source.address):
        return _Stored(source, [Archive(source.address.rsplit("/", 1)[-1], source.address, 0, "")])
    return None


def _dataset_files(source: HuggingFaceSource) -> _Stored | None:
    """The files of a split; None for formats other than Parquet and JSON lines."""
    files = hugging_face.local_files(source)
    kind = hugging_face.format_of(files)
    archives = [Archive(Path(file).name, file, Path(file).stat().st_size, "") for file in files]
    return _Stored(_as(source, kind), archives) if kind in ("parquet", "jsonl") else None


def _as(source: SourceConfig, kind: str) -> SourceConfig:
    """The source as one of another kind, with what both can be told."""
    config = reader_of(kind).config
    given = {name: value for name, value in source.model_dump().items() if name in config.model_fields}
    return config.model_validate(given | {"kind": kind})


def _sized(archive: Archive) -> Archive:
    if archive.size:
        return archive
    if not is_http(archive.url):
        return replace(archive, size=Path(archive.url).stat().st_size)
    with HttpFile(archive.url, BRIEF) as stream:
        return replace(archive, size=stream.size)


def _piece(archive: Archive, number: int, reading: Reading[Any], deadline: float) -> tuple[Sequence[Outcome], float]:
    """Records of one piece of an archive, and how many of its bytes they stand for: 0 where that cannot be told."""
    read = _read_briefly if is_http(archive.url) else reader_of(reading.source.kind).read
    part = Part(archive, 0, archive.size)
    if archive.size <= PIECE_BYTES:
        found, ended = _until(read(part, reading), deadline)
        if not ended and reading.source.kind in PAGES:
            return found, float(_reach(found, 0))
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
    if Path(archive.url).is_dir() or _is_zip(archive):
        found, ended = _until(read(part, reading), deadline)
        return (found, float(archive.size)) if ended else ([], 0.0)
    return _head(archive, reading, deadline)


def _load(reading: Reading[Any]) -> None:
    """What the first page costs once, above all compiled code, is no part of the time of the others."""
    if reading.source.kind in PAGES:
        page = Page(id=b"", url="", body=b"<p>One page.</p>", content_type="text/html")
        with suppress(Refused):
            PageExtractor.create(reading.extract, reading.language_model).extract(page)


def _read_briefly(part: Part, reading: Reading[Any]) -> Iterator[Outcome]:
    with HttpFile(part.archive.url, BRIEF) as stream:
        yield from warc.read_stream(cast(BinaryIO, stream), part, reading)


def _head(archive: Archive, reading: Reading[Any], deadline: float) -> tuple[Sequence[Outcome], float]:
    with tempfile.TemporaryDirectory(prefix="headwater-probe-") as folder:
        path = Path(folder) / Path(archive.name).name
        with open_archive(archive) as stream:
            path.write_bytes(stream.read(HEAD_BYTES))
        cut = replace(archive, url=str(path), size=HEAD_BYTES)
        with suppress(InputError):
            found, ended = _until(reader_of(reading.source.kind).read(Part(cut, 0, HEAD_BYTES), reading), deadline)
            if found and is_fate(found[-1]) and found[-1]["verdict"] == "failed":
                found = found[:-1]
            return (found, float(HEAD_BYTES)) if ended else ([], 0.0)
    return [], 0.0


def _is_zip(archive: Archive) -> bool:
    with open_archive(archive) as stream:
        return stream.read(2) == b"PK"


def _cut_anywhere(archive: Archive, source: SourceConfig) -> bool:
    if source.kind in PAGES:
        return is_http(archive.url) or can_start_within(open_archive(archive))
    return source.kind == "wikipedia" and wikipedia.in_streams(archive)


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
