"""Cutting a WARC or ARC file into records, so that damage costs one record and never the rest of the file.

Crawl archives are a row of gzip members, normally one a record. Each member is inflated by itself: its end is known
exactly, a cut or a wrong checksum is noticed (a reader of the concatenated stream sees neither), and after damage reading
goes on at the next place where a gzip member begins that inflates to a record. Uncompressed files, and members with many
records, are cut by the records' own lengths; after a broken header the next line that begins a record is sought.

A part of a file owns the members that *begin* in its byte range, so parts can be read independently and together yield
each record once. (A member hidden in the stored payload of another one would be taken for real by a part that begins
between the two; archives of archives must be read whole.)
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

Damage = Literal["", "truncated", "corrupt", "too_large"]

GZIP_MAGIC = b"\x1f\x8b\x08"
READ_BYTES = 256 << 10
INFLATE_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 10
PROBE_BYTES = 4 << 10
WARC_START = re.compile(rb"WARC/\d+\.\d+\r?\n")
ARC_LINE = re.compile(
    rb"(?P<url>[a-z][a-z0-9+.-]{1,20}:\S{0,8000}) (?P<ip>\S{1,64}) (?P<date>\d{12,17})"
    rb" (?P<type>[^\r\n]{0,200}) (?P<length>\d{1,12})\r?\n"
)
NEXT_RECORD = re.compile(rb"(?:\r?\n)(WARC/\d+\.\d+\r?\n)")
CONTENT_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?$")
LINE_BREAKS = b"\r\n"


@dataclass(frozen=True)
class RawRecord:
    """One record's bytes (header and block), where they lie in the file, and what is wrong with them.

    ``checked`` says that a gzip checksum vouches for them. Several records in one member share its offset.
    """

    offset: int
    length: int
    data: bytes
    damage: Damage = ""
    checked: bool = False


class NotAnArchive(Exception):
    """The file holds no record at all."""


class _Cut(Exception):
    """The bytes end before the record does."""


class _Broken(Exception):
    """These bytes are not a record."""


class _Stream:
    """Bytes from an iterator of chunks, by line or by number, with the position."""

    def __init__(self, chunks: Iterator[bytes], position: int = 0) -> None:
        self._chunks = chunks
        self._buffer = bytearray()
        self.position = position

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._buffer += chunk
        return True

    def peek(self, size: int) -> bytes:
        self._fill(size)
        return bytes(self._buffer[:size])

    def take(self, size: int) -> bytes:
        self._fill(size)
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.position += len(taken)
        return taken

    def skip(self, size: int) -> int:
        """Returns how many bytes there really were."""
        begin = self.position
        while size > 0 and (taken := len(self.take(min(size, INFLATE_BYTES)))):
            size -= taken
        return self.position - begin

    def skip_line_breaks(self) -> None:
        while (head := self.peek(64)) and head[0] in LINE_BREAKS:
            self.take(len(head) - len(head.lstrip(LINE_BREAKS)))

    def skip_to_record(self) -> bool:
        """Move to the next line that begins a WARC record."""
        while self._fill(1):
            self._fill(INFLATE_BYTES)
            match = NEXT_RECORD.search(self._buffer)
            if match:
                self.take(match.start(1))
                return True
            if len(self._buffer) < INFLATE_BYTES:
                self.take(len(self._buffer))
                return False
            self.take(len(self._buffer) - 32)
        return False


def read_records(stream: BinaryIO, start: int, end: int, max_record_bytes: int) -> Iterator[RawRecord]:
    """All records that begin in ``[start, end)``. Raises NotAnArchive if a file read from its start holds none."""
    stream.seek(0)
    head = stream.read(len(GZIP_MAGIC))
    if head == GZIP_MAGIC:
        yield from _compressed_records(stream, start, end, max_record_bytes)
        return
    stream.seek(0)
    source = _Stream(iter(lambda: stream.read(READ_BYTES), b""))
    if not _begins_record(source.peek(PROBE_BYTES)):
        raise NotAnArchive
    for record in _records(source, max_record_bytes, resynchronise=True):
        if record.offset >= end:
            return
        if record.offset >= start:
            yield record


def _begins_record(head: bytes) -> bool:
    head = head.lstrip(LINE_BREAKS)
    return bool(WARC_START.match(head) or ARC_LINE.match(head))


def _records(source: _Stream, max_bytes: int, *, resynchronise: bool) -> Iterator[RawRecord]:
    """Records of an inflated stream. Without ``resynchronise`` what follows a broken header is one corrupt record."""
    while True:
        source.skip_line_breaks()
        if not source.peek(1):
            return
        begin = source.position
        try:
            data, damage = _one_record(source, max_bytes)
        except _Cut:
            yield RawRecord(begin, source.position - begin, b"", "truncated")
            return
        except _Broken:
            damage, data = "corrupt", b""
            if not resynchronise:
                source.skip(1 << 62)
            elif not source.skip_to_record():
                yield RawRecord(begin, source.position - begin, b"", "corrupt")
                return
        yield RawRecord(begin, source.position - begin, data, damage)


def _one_record(source: _Stream, max_bytes: int) -> tuple[bytes, Damage]:
    head = source.peek(MAX_HEADER_BYTES)
    size, header_size = _measure(head)
    if size - header_size > max_bytes:
        source.take(header_size)
        if source.skip(size - header_size) < size - header_size:
            raise _Cut
        return head[:header_size], "too_large"
    data = source.take(size)
    return data, "" if len(data) == size else "truncated"


def _measure(head: bytes) -> tuple[int, int]:
    """Total size and header size of the record that ``head`` begins with."""
    if arc := ARC_LINE.match(head):
        return arc.end() + int(arc["length"]), arc.end()
    if not WARC_START.match(head):
        raise _Broken
    ends = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := head.find(mark)) >= 0]
    if not ends:
        raise _Cut if len(head) < MAX_HEADER_BYTES else _Broken
    at, width = min(ends)
    length = CONTENT_LENGTH.search(head, 0, at + 2)
    if not length:
        raise _Broken
    return at + width + int(length[1]), at + width


def _compressed_records(stream: BinaryIO, start: int, end: int, max_bytes: int) -> Iterator[RawRecord]:
    position = _next_member(stream, start, end)
    if not start:
        if position is None:
            raise NotAnArchive
        if position:
            yield RawRecord(0, position, b"", "corrupt")
    while position is not None:
        member = _Member(stream, position)
        pending: RawRecord | None = None
        records = 0
        for record in member.records(max_bytes):
            if pending:
                # More than one record in a member: how long each is in the file cannot be told.
                yield replace(pending, offset=position, length=0)
            pending = record
            records += 1
        following = member.end if member.complete else _next_member(stream, position + 1, end)
        length = (following or end) - position if records <= 1 else 0
        if member.damage:
            yield RawRecord(position, length, pending.data if pending else b"", member.damage)
        elif pending:
            yield replace(pending, offset=position, length=length, checked=True)
        if following is not None and member.complete:
            head = _head_at(stream, following)
            if not head:
                return
            if head != GZIP_MAGIC:
                # Not a member where one should begin: padding, or a damaged header.
                begin, following = following, _next_member(stream, following, end)
                stop = following or end
                if not _is_padding(stream, begin, stop):
                    yield RawRecord(begin, stop - begin, b"", "corrupt")
        position = following if following is not None and following < end else None


class _Member:
    """One gzip member: its records, and afterwards where it ended and whether it is whole."""

    def __init__(self, stream: BinaryIO, begin: int) -> None:
        self._stream = stream
        self._inflate = zlib.decompressobj(31)
        self._position = begin
        self._broken = False
        stream.seek(begin)

    def records(self, max_bytes: int) -> Iterator[RawRecord]:
        """Reads the member to its end, so that its checksum is compared."""
        try:
            yield from _records(_Stream(self._chunks()), max_bytes, resynchronise=False)
        except zlib.error:
            self._broken = True

    def _chunks(self) -> Iterator[bytes]:
        while not self._inflate.eof and (packed := self._stream.read(READ_BYTES)):
            self._position += len(packed)
            while packed and not self._inflate.eof:
                data = self._inflate.decompress(packed, INFLATE_BYTES)
                packed = self._inflate.unconsumed_tail
                if data:
                    yield data

    @property
    def complete(self) -> bool:
        return self._inflate.eof

    @property
    def end(self) -> int:
        return self._position - len(self._inflate.unused_data)

    @property
    def damage(self) -> Damage:
        if self._broken:
            return "corrupt"
        return "" if self.complete else "truncated"


def _head_at(stream: BinaryIO, position: int) -> bytes:
    stream.seek(position)
    return stream.read(len(GZIP_MAGIC))


def _is_padding(stream: BinaryIO, begin: int, end: int) -> bool:
    stream.seek(begin)
    while begin < end and (chunk := stream.read(min(READ_BYTES, end - begin))):
        if chunk.strip(b"\0\r\n"):
            return False
        begin += len(chunk)
    return True


def _next_member(stream: BinaryIO, position: int, end: int) -> int | None:
    """Where the next gzip member that inflates to a record begins, from ``position`` on and before ``end``."""
    stream.seek(position)
    window, base = b"", position
    while base < end:
        chunk = stream.read(READ_BYTES)
        window += chunk
        at = window.find(GZIP_MAGIC)
        while at >= 0 and base + at < end:
            probe = window[at : at + PROBE_BYTES]
            if len(probe) < PROBE_BYTES and chunk:
                break  # too near the edge to judge: look again with the next chunk
            if _inflates_to_record(probe):
                return base + at
            at = window.find(GZIP_MAGIC, at + 1)
        if not chunk:
            return None
        kept = at if at >= 0 else max(0, len(window) - len(GZIP_MAGIC) + 1)
        window, base = window[kept:], base + kept
    return None


def _inflates_to_record(probe: bytes) -> bool:
    try:
        return _begins_record(zlib.decompressobj(31).decompress(probe, PROBE_BYTES))
    except zlib.error:
        return False


def first_bytes(stream: BinaryIO) -> bytes:
    """What tells a compressed archive from a plain one. Closes the stream."""
    with stream:
        return stream.read(len(GZIP_MAGIC))
