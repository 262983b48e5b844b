"""Cutting a WARC or ARC file into records, so that damage costs one record and never the rest of the file.

Crawl archives are a row of gzip members or zstd frames, normally one a record. Each member is inflated by itself: its end is
known exactly, a cut or a wrong checksum is noticed (a reader of the concatenated stream sees neither), and after damage
reading goes on at the next place where a member begins that inflates to a record. Records of a member with many are handed
on when its checksum is known; those of a damaged member are marked, and count only where their own digest proves them.

Within a member and in uncompressed files records are cut by their own lengths. A length is believed if a record, or the end,
follows where it says, and no other record begins within its block unless the block's digest or its HTTP length vouches for
it; otherwise reading goes on at the next line that begins a record. So a wrong length costs its own record.

A part of a file owns the members that *begin* in its byte range, so parts can be read independently and together yield
each record once. (A member hidden in the stored payload of another one would be taken for real by a part that begins
between the two; archives of archives must be read whole.)
"""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from pipeline.compression import Codec, Corrupt, Member, begins_member, codec_of, has_checksum, is_padding, places
from pipeline.sources.headers import begins_http, digest_matches, first, head_size, read_fields, read_message

Damage = Literal["", "truncated", "corrupt", "too_large"]

READ_BYTES = 256 << 10
INFLATE_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 10
PROBE_BYTES = 512
HELD_BYTES = 32 << 20
"""Members with more in them are inflated once for their checksum and once for their records."""
WARC_START = re.compile(rb"WARC/\d+\.\d+[ \t]*\r?\n")
ARC_LINE = re.compile(
    rb"(?P<url>[A-Za-z][A-Za-z0-9+.-]{1,20}:[^\r\n]{0,8000}) (?P<ip>\S{1,64}) (?P<date>\d{12,17})"
    rb" (?P<type>[^\r\n]{0,200}) (?P<length>\d{1,12})\r?\n"
)
NEXT_RECORD = re.compile(rb"\r?\n\0*(WARC/\d+\.\d+[ \t]*\r?\n(?=[!-9;-~]{1,60}[ \t]*:)|" + ARC_LINE.pattern + rb")")
NEXT_MARK = b"\nWARC/"
LONGEST_MARK = 9_000
CONTENT_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:(?:[ \t]|\r?\n[ \t])*(\d{1,18})[ \t]*\r?$")
SEARCHED_BYTES = 64 << 20
"""How far the first record of a plain file is looked for."""
PADDING = b"\r\n\0"
"""Between records; some writers end each with a zero."""


@dataclass(frozen=True)
class RawRecord:
    """One record's bytes (header and block), where they lie in the file, and what is wrong with them.

    ``checked`` says that a checksum vouches for them, ``doubtful`` that no record follows where the length says.
    Several records in one member share its offset. A damaged record may have its bytes too: its digest can prove them.
    """

    offset: int
    length: int
    data: bytes
    damage: Damage = ""
    checked: bool = False
    doubtful: bool = False


class NotAnArchive(Exception):
    """The file holds no record at all."""


class _Cut(Exception):
    """The bytes end before the record does."""


class _Broken(Exception):
    """These bytes are not a record."""


class _Stream:
    """Bytes with a position, front to back; steps back, and far ones where that is cheap, open them anew."""

    def __init__(self, open_at: Callable[[int], Iterator[bytes]], size: int | None = None) -> None:
        self._open_at = open_at
        self._chunks = open_at(0)
        self._buffer = bytearray()
        self.position = 0
        self.size = size
        """Known where any place is as near as the next."""

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

    def move(self, position: int) -> None:
        """Go there, or to the end."""
        step = position - self.position
        if 0 <= step <= len(self._buffer):
            self.take(step)
        elif step > 0 and self.size is None:
            while step > 0 and (taken := len(self.take(min(step, INFLATE_BYTES)))):
                step -= taken
        else:
            position = position if self.size is None else min(position, self.size)
            self._chunks, self.position = self._open_at(position), position
            self._buffer.clear()

    def skip_padding(self) -> None:
        while (head := self.peek(PROBE_BYTES)) and head[0] in PADDING:
            self.take(len(head) - len(head.lstrip(PADDING)))

    def at_boundary(self) -> bool:
        """Whether a record begins here, or nothing more comes."""
        head = self.peek(LONGEST_MARK).lstrip(PADDING)
        return not head or _begins_record(head)

    def find_record(self, end: int | None = None) -> int | None:
        """Where the next line begins a record, before ``end``; moves up to it, or there."""
        while (end is None or self.position < end) and self._fill(1):
            self._fill(INFLATE_BYTES)
            match = NEXT_RECORD.search(self._buffer)
            if match:
                found = self.position + match.start(1)
                self.move(found if end is None else min(found, end))
                return found if end is None or found < end else None
            self.take(max(1, len(self._buffer) - LONGEST_MARK) if self._fill(INFLATE_BYTES) else len(self._buffer))
        return None


def read_records(
    stream: BinaryIO, start: int, end: int, max_record_bytes: int, *, salvage: bool = False
) -> Iterator[RawRecord]:
    """All records that begin in ``[start, end)``. Raises NotAnArchive if a file read from its start holds none.

    ``salvage`` takes the complete records of damaged members for good.
    """
    codec = codec_of(stream)
    if codec:
        for record in _compressed_records(stream, codec, start, end, max_record_bytes):
            yield replace(record, damage="") if salvage and _is_whole(record) else record
        return

    def open_at(position: int) -> Iterator[bytes]:
        stream.seek(position)
        return iter(lambda: stream.read(READ_BYTES), b"")

    source = _Stream(open_at, stream.seek(0, io.SEEK_END))
    source.move(0)
    if not _begins_record(source.peek(LONGEST_MARK)):
        if source.find_record(SEARCHED_BYTES) is None:
            raise NotAnArchive
        source.move(0)
    for record in _records(source, max_record_bytes):
        if record.offset >= end:
            return
        if record.offset >= start:
            yield record


def _begins_record(head: bytes) -> bool:
    head = head.lstrip(PADDING)
    return bool(WARC_START.match(head) or ARC_LINE.match(head))


def _is_whole(record: RawRecord) -> bool:
    if record.damage not in ("truncated", "corrupt"):
        return False
    try:
        return _measure(record.data)[0] == len(record.data)
    except (_Cut, _Broken):
        return False


def _records(source: _Stream, max_bytes: int) -> Iterator[RawRecord]:
    """Records of an inflated stream."""
    while True:
        source.skip_padding()
        head = source.peek(MAX_HEADER_BYTES)
        if not head.strip(PADDING) and len(head) < MAX_HEADER_BYTES:
            return
        try:
            size, header_size = _measure(head)
        except (_Cut, _Broken) as error:
            yield _hole(source, isinstance(error, _Cut))
            continue
        if size - header_size > max_bytes:
            yield _too_large(source, head[:header_size], size)
        else:
            yield _one_record(source, size, header_size)


def _hole(source: _Stream, cut: bool) -> RawRecord:
    """From here to the next record there is none."""
    begin = source.position
    source.take(1)
    found = source.find_record()
    return RawRecord(begin, source.position - begin, b"", "truncated" if cut and found is None else "corrupt")


def _one_record(source: _Stream, size: int, header_size: int) -> RawRecord:
    begin = source.position
    data = source.take(size)
    fits = len(data) == size and source.at_boundary()
    inner = (
        _record_within(data, header_size) if fits else _record_near(data + source.peek(LONGEST_MARK), header_size, size)
    )
    if inner is not None and not (fits and _vouched(data, header_size)):
        source.move(begin + inner)
        return RawRecord(begin, inner, _without_line_breaks(data[:inner]), "corrupt")
    if len(data) < size:
        return RawRecord(begin, len(data), data, "truncated")
    return RawRecord(begin, size, data, doubtful=not fits)


def _record_within(data: bytes, header_size: int) -> int | None:
    """Where another record seems to begin in a block that has the right length."""
    return _record_near(data, header_size, len(data)) if data.find(NEXT_MARK, header_size - 1) >= 0 else None


def _record_near(data: bytes, header_size: int, size: int) -> int | None:
    match = NEXT_RECORD.search(data, header_size - 1)
    return match.start(1) if match and match.start(1) < size else None


def _vouched(data: bytes, header_size: int) -> bool:
    """Whether the block is as long as its own digest or its HTTP header says."""
    block = data[header_size:]
    if not ARC_LINE.match(data):
        message = read_message(block)
        contents = [block, block[message.body :]] if message else [block]
        if digest_matches(first(read_fields(data[:header_size]), "warc-block-digest"), contents):
            return True
    return _length_vouched(block, len(block))


def _length_vouched(block: bytes, size: int) -> bool:
    message = read_message(block) if begins_http(block) else None
    return message is not None and first(message.fields, "content-length") == str(size - message.body)


def _without_line_breaks(data: bytes) -> bytes:
    """Without the two line ends that follow a block."""
    return data.removesuffix(b"\r\n\r\n") if data.endswith(b"\r\n\r\n") else data.removesuffix(b"\n\n")


def _too_large(source: _Stream, head: bytes, size: int) -> RawRecord:
    """A record that is not held in memory, if its length is true."""
    begin, end = source.position, source.position + size
    if _length_vouched(source.peek(MAX_HEADER_BYTES)[len(head) :], size - len(head)):
        source.move(end)
        if source.position == end and source.at_boundary():
            return RawRecord(begin, size, head, "too_large")
        source.move(begin)
    source.move(begin + len(head) - 1)
    inner = source.find_record(end)
    if inner is not None:
        return RawRecord(begin, inner - begin, head, "corrupt")
    source.move(end)
    return RawRecord(begin, source.position - begin, head, "too_large" if source.position == end else "truncated")


def _measure(head: bytes) -> tuple[int, int]:
    """Total size and header size of the record that ``head`` begins with."""
    if arc := ARC_LINE.match(head):
        return arc.end() + int(arc["length"]), arc.end()
    if not WARC_START.match(head):
        raise _Broken
    size = head_size(head)
    if not head[:size].endswith((b"\n\n", b"\n\r\n")):
        raise _Cut if len(head) < MAX_HEADER_BYTES else _Broken
    length = CONTENT_LENGTH.search(head, 0, size)
    if not length:
        raise _Broken
    return size + int(length[1]), size


def _compressed_records(stream: BinaryIO, codec: Codec, start: int, end: int, max_bytes: int) -> Iterator[RawRecord]:
    position = _next_member(stream, codec, start, end)
    if not start:
        if position is None:
            raise NotAnArchive
        if position > _lead(stream, codec):
            yield RawRecord(0, position, b"", "corrupt")
    while position is not None:
        opened = _Member(stream, codec, position)
        records = opened.records(max_bytes)
        following = opened.end if opened.end is not None else _next_member(stream, codec, position + 1, end)
        stop = end if following is None else following
        yield from opened.placed(records, stop)
        if opened.end is not None and not begins_member(stream, codec, opened.end):
            # Not a member where one should begin: the end, padding, or a damaged header.
            following = _next_member(stream, codec, opened.end, end)
            stop = end if following is None else following
            if stop > opened.end and not is_padding(stream, opened.end, stop):
                yield RawRecord(opened.end, stop - opened.end, b"", "corrupt")
        position = following if following is not None and following < end else None


class _Member:
    """The records of one member, and what its checksum says of them."""

    def __init__(self, stream: BinaryIO, codec: Codec, begin: int) -> None:
        self._stream, self._codec, self._begin = stream, codec, begin
        self._member = Member(stream, codec, begin)
        self._why = ""

    def records(self, max_bytes: int) -> Iterator[RawRecord]:
        """Reads the member to its end; what is too much to hold is read again by the iterator returned."""
        source = _Stream(self._open_at)
        found: list[RawRecord] = []
        held = 0
        for record in _records(source, max_bytes):
            found.append(record)
            held += len(record.data)
            if held > HELD_BYTES:
                break
        else:
            return iter(found)
        source.move(1 << 62)
        return _records(_Stream(self._open_at), max_bytes)

    def placed(self, records: Iterator[RawRecord], stop: int) -> Iterator[RawRecord]:
        """The records with the member's place and verdict. How long each of several is in the file cannot be told."""
        whole = self.end is not None
        sealed = whole and has_checksum(self._stream, self._codec, self._begin)
        damage: Damage = "" if whole else "truncated" if self._why.endswith("ends early") else "corrupt"
        pending: RawRecord | None = None
        several = False
        for record in records:
            if pending:
                several = True
                yield replace(pending, length=0)
            pending = replace(
                record, offset=self._begin, damage=damage or record.damage, checked=sealed and not record.damage
            )
        if pending or not whole:
            last = pending or RawRecord(self._begin, 0, b"", damage)
            yield replace(last, length=0 if several and whole else stop - self._begin)

    @property
    def end(self) -> int | None:
        """Where the member ends; None where it is damaged."""
        return self._member.end if self._member.complete and not self._why else None

    def _open_at(self, position: int) -> Iterator[bytes]:
        self._member, self._why = Member(self._stream, self._codec, self._begin), ""
        try:
            for chunk in self._member.chunks():
                if position < len(chunk):
                    yield chunk[position:]
                position = max(0, position - len(chunk))
        except Corrupt as corrupt:
            self._why = str(corrupt)


def _next_member(stream: BinaryIO, codec: Codec, position: int, end: int) -> int | None:
    """Where the next member that inflates to a record begins, from ``position`` on and before ``end``."""
    for place in places(stream, codec.magic, position):
        if place >= end:
            return None
        try:
            if _begins_record(Member(stream, codec, place).head(PROBE_BYTES)):
                return place
        except Corrupt:
            continue
    return None


def _lead(stream: BinaryIO, codec: Codec) -> int:
    """Where the first member with any content begins: zstd files may begin with a dictionary."""
    position = 0
    while begins_member(stream, codec, position):
        member = Member(stream, codec, position)
        try:
            if member.head(1):
                break
        except Corrupt:
            break
        position = member.end
    return position


def can_start_within(stream: BinaryIO) -> bool:
    """Whether parts of the file can be read by themselves: it is a row of small members. Closes the stream."""
    with stream:
        codec = codec_of(stream)
        return codec is not None and codec.name in ("gzip", "zstd")
