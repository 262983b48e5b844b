"""Multistream bz2 files: a row of complete bz2 streams, as Wikipedia publishes its large dumps.

Every stream begins at a byte with the same ten bytes and can be inflated by itself: the first holds the dump's head, each
further one a hundred pages. So a file can be read in byte ranges, each owning the streams that *begin* in it, and a damaged
stream costs itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline.compression import BZIP2, Corrupt, Member, begins_member, places

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
    return bool(BZIP2.magic.match(head) and BZIP2.magic.search(head, 1))


def read_streams(raw: BinaryIO, start: int, end: int, max_bytes: int) -> Iterator[Stream]:
    """Every stream that begins in ``[start, end)``; one that holds more than ``max_bytes`` counts as damaged."""
    position = _next(raw, start, end)
    while position is not None:
        stream = _inflate(raw, position, max_bytes)
        if not stream.damage and begins_member(raw, BZIP2, stream.end):
            following: int | None = stream.end
        else:
            following = _next(raw, position + 1, end)
        yield replace(stream, end=following or end) if stream.damage else stream
        position = following if following is not None and following < end else None


def _inflate(raw: BinaryIO, start: int, max_bytes: int) -> Stream:
    """The stream that begins here; where a damaged one ends is not known."""
    member = Member(raw, BZIP2, start)
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in member.chunks():
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                return Stream(start, 0, b"", f"the stream holds more than {max_bytes} bytes")
    except Corrupt as corrupt:
        return Stream(start, 0, b"", str(corrupt.__cause__ or "the stream ends early"))
    return Stream(start, member.end, b"".join(pieces))


def _next(raw: BinaryIO, start: int, end: int) -> int | None:
    """Where the next stream begins, from ``start`` on and before ``end``."""
    place = next(places(raw, BZIP2.magic, start), end)
    return place if place < end else None
