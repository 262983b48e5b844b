"""Flat arrays: little-endian numbers one after another, read by ranges.

Cards, signatures and shingles of a file of documents lie in flat arrays, so that any row can be read without the rest.
Reads are ordered and neighbouring ranges joined: on a disk that is nearly sequential, on an object store few requests.
Memory mapping would do the same with less code, but the pages it touches count as the worker's memory.
"""

import itertools
import os
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from infra.store.files import filesystem, is_local

_GAP = 64 << 10
_RUN = 16 << 20


def write_array(array: NDArray[np.generic], stream: BinaryIO) -> None:
    """Append an array's numbers. numpy's own ``tofile`` loses up to a block without a word when the disk is full."""
    stream.write(np.ascontiguousarray(array).data)


class RangeReader:
    """Reads byte ranges of one file at any fsspec address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._handle: int | None = None
        self._fs, self._path = filesystem(url)
        if is_local(url):
            self._handle = os.open(self._path, os.O_RDONLY)
            self.size = os.fstat(self._handle).st_size
        else:
            self.size = int(self._fs.size(self._path))

    def read(self, offset: int, length: int) -> bytearray:
        """Exactly ``length`` bytes; EOFError if the file is shorter."""
        data = bytearray(length)
        if length == 0:  # to an object store an empty range means the whole file
            return data
        if self._handle is None:
            data[:] = self._fs.cat_file(self._path, start=offset, end=offset + length)
        else:
            filled, view = 0, memoryview(data)
            while filled < length:
                got = os.preadv(self._handle, [view[filled:]], offset + filled)
                if got == 0:
                    break
                filled += got
            length = filled
        if len(data) != length:
            raise EOFError(f"{self.url} ends before byte {offset + len(data)}")
        return data

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "RangeReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def read_rows(reader: RangeReader, dtype: type[np.generic], width: int, begin: int, end: int) -> NDArray[np.generic]:
    """Rows ``begin:end`` of a flat array of ``width`` columns."""
    row = np.dtype(dtype).itemsize * width
    return np.frombuffer(reader.read(begin * row, (end - begin) * row), dtype).reshape(-1, width)


def read_ranges(
    reader: RangeReader, dtype: type[np.generic], begin: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.generic]:
    """Items ``begin[i]:begin[i] + size[i]`` of a flat array, one after another. ``begin`` ascends."""
    from pipeline.dedup.gather import copy_ranges

    out = np.empty(int(size.sum()), dtype)
    if len(begin) == 0:
        return out
    item = np.dtype(dtype).itemsize
    end = begin + size
    gap = (begin[1:] - np.maximum.accumulate(end)[:-1]) * item > _GAP
    full = (begin[1:] * item) // _RUN != (begin[:-1] * item) // _RUN
    cuts = np.concatenate([[0], np.flatnonzero(gap | full) + 1, [len(begin)]])
    filled = 0
    for first, last in itertools.pairwise(cuts):
        low, high = int(begin[first]), int(end[first:last].max())
        if high > low:
            data = np.frombuffer(reader.read(low * item, (high - low) * item), dtype)
            copy_ranges(data, begin[first:last] - low, size[first:last], out[filled:])
        filled += int(size[first:last].sum())
    return out
