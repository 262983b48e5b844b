"""Multistream bz2 files: a row of complete bz2 streams, as Wikipedia publishes its large dumps.

Every stream begins at a byte with the same ten bytes and can be inflated by itself: the first holds the dump's head, each
further one a hundred pages. So a file can be read in byte ranges, each owning the streams that *begin* in it, and a damaged
stream costs itself.
"""

import bz2
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# "BZh", a digit for the block size, and the mark of the first block.
SIGNATURE = b"1AY&SY"
SIGNATURE_AT = 4
STREAM_BYTES = 10
READ_BYTES = 256 << 10
HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Stream:
    """One bz2 stream: where it lies and what it holds; ``damage`` says why it could not be read."""

    start: int
    end: int
    data: bytes
    damage: str = ""


def is_multistream(raw: BinaryIO) -> bool:
    """Whether a second stream begins in the first megabyte (the dump's head is a small stream of its own)."""
    raw.seek(0)
    head = raw.read(HEAD_BYTES)
    return _find(head, 0) == 0 and _find(head, 1) > 0


def read_streams(raw: BinaryIO, start: int, end: int, max_bytes: int) -> Iterator[Stream]:
    """Every stream that begins in ``[start, end)``; one that holds more than ``max_bytes`` counts as damaged."""
    position = _next(raw, start, end)
    while position is not None:
        stream = _inflate(raw, position, max_bytes)
        following = stream.end if stream.end and _begins(raw, stream.end) else _next(raw, position + 1, end)
        if stream.damage:
            yield Stream(position, following or end, b"", stream.damage)
        else:
            yield stream
        position = following if following is not None and following < end else None


def _inflate(raw: BinaryIO, start: int, max_bytes: int) -> Stream:
    raw.seek(start)
    unpacker = bz2.BZ2Decompressor()
    pieces: list[bytes] = []
    size, position = 0, start
    try:
        while not unpacker.eof:
            packed = raw.read(READ_BYTES) if unpacker.needs_input else b""
            if unpacker.needs_input and not packed:
                return Stream(start, 0, b"", "the stream ends early")
            position += len(packed)
            pieces.append(unpacker.decompress(packed, max_bytes + 1 - size))
            size += len(pieces[-1])
            if size > max_bytes:
                return Stream(start, 0, b"", f"the stream holds more than {max_bytes} bytes")
    except OSError as error:
        return Stream(start, 0, b"", str(error))
    return Stream(start, position - len(unpacker.unused_data), b"".join(pieces))


def _begins(raw: BinaryIO, position: int) -> bool:
    raw.seek(position)
    return _find(raw.read(STREAM_BYTES), 0) == 0


def _next(raw: BinaryIO, start: int, end: int) -> int | None:
    """Where the next stream begins, from ``start`` on and before ``end``."""
    raw.seek(start)
    window, base = b"", start
    while base < end and (chunk := raw.read(READ_BYTES)):
        window += chunk
        if (at := _find(window, 0)) >= 0:
            return base + at if base + at < end else None
        kept = min(len(window), STREAM_BYTES - 1)
        base += len(window) - kept
        window = window[len(window) - kept :]
    return None


def _find(data: bytes, start: int) -> int:
    at = data.find(SIGNATURE, start + SIGNATURE_AT)
    while at >= 0:
        head = data[at - SIGNATURE_AT : at]
        if head[:3] == b"BZh" and head[3:].isdigit():
            return at - SIGNATURE_AT
        at = data.find(SIGNATURE, at + 1)
    return -1
