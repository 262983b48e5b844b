"""Regrouping without a shuffle: a file cut into partitions.

A unit writes one file of fixed-width records (rows of 64-bit words), grouped by partition; a unit of the next step reads
its own partition from each of those files. The writer holds at most ``budget`` bytes: when full it appends a segment,
sorted by partition. The index at the end says where each partition of each segment begins:

    records | int64 index[segments][partitions + 1] | int64 width, segments, partitions, magic
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pipeline.dedup.flat import RangeReader, write_array

Records = NDArray[np.uint64]
_MAGIC = 0x4857455831
_FOOTER = 32


class ExchangeWriter:
    """Collects records by partition. Use as a context manager."""

    def __init__(self, path: Path, width: int, partitions: int, budget: int = 64 << 20) -> None:
        self._stream = path.open("wb")
        self._width, self._partitions, self._budget = width, partitions, budget
        self._waiting: list[tuple[Records, NDArray[np.int64]]] = []
        self._bytes = 0
        self._written = 0
        self._index: list[NDArray[np.int64]] = []

    def add(self, records: Records, partition: NDArray[np.integer]) -> None:
        if len(records) == 0:
            return
        self._waiting.append((records, partition.astype(np.int64)))
        self._bytes += records.nbytes + 8 * len(records)
        if self._bytes >= self._budget:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        records = np.concatenate([records for records, _ in self._waiting])
        partition = np.concatenate([partition for _, partition in self._waiting])
        self._waiting, self._bytes = [], 0
        order = np.argsort(partition, kind="stable")
        write_array(records[order], self._stream)
        ends = np.cumsum(np.bincount(partition, minlength=self._partitions))
        self._index.append(self._written + np.concatenate([[0], ends]))
        self._written += len(records)

    def __enter__(self) -> "ExchangeWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._flush()
            for row in self._index:
                write_array(row.astype(np.int64), self._stream)
            write_array(np.array([self._width, len(self._index), self._partitions, _MAGIC], np.int64), self._stream)
        self._stream.close()


def partitions_of(url: str) -> int:
    """The number of partitions an exchange file was written with."""
    with RangeReader(url) as reader:
        return _footer(reader)[2]


def _footer(reader: RangeReader) -> tuple[int, int, int]:
    width, segments, partitions, magic = np.frombuffer(reader.read(reader.size - _FOOTER, _FOOTER), np.int64)
    if magic != _MAGIC:
        raise ValueError(f"{reader.url} is not an exchange file")
    return int(width), int(segments), int(partitions)


def _index(reader: RangeReader) -> tuple[int, NDArray[np.int64]]:
    width, segments, partitions = _footer(reader)
    size = segments * (partitions + 1) * 8
    index = np.frombuffer(reader.read(reader.size - _FOOTER - size, size), np.int64)
    return width, index.reshape(segments, partitions + 1)


def read_partition(urls: Iterable[str], partition: int) -> Iterator[Records]:
    """The records of one partition, a segment at a time, in the order of the files."""
    for url in urls:
        with RangeReader(url) as reader:
            width, index = _index(reader)
            for low, high in index[:, partition : partition + 2]:
                if high > low:
                    data = reader.read(int(low) * width * 8, int(high - low) * width * 8)
                    yield np.frombuffer(data, np.uint64).reshape(-1, width)


def partition_bytes(urls: Iterable[str], partition: int) -> int:
    """The size of one partition over all files."""
    total = 0
    for url in urls:
        with RangeReader(url) as reader:
            width, index = _index(reader)
            total += int((index[:, partition + 1] - index[:, partition]).sum()) * width * 8
    return total


def gather_partition(urls: Iterable[str], partition: int, width: int) -> Records:
    """All records of one partition in memory."""
    found = list(read_partition(urls, partition))
    return np.concatenate(found) if found else np.empty((0, width), np.uint64)
