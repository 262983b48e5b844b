"""Compressed bytes: one way to open any file, and nothing that was altered gets out.

A file is what its first bytes say, whatever its name: gzip, bzip2, xz, zstd, or plain. The compressed ones are a row of
*members* (gzip members, bzip2 and xz streams, zstd frames), each with a checksum at its end. So a member is inflated to its
end before anything of it is handed on: what is small is held meanwhile, what is large is inflated twice. A member that is cut,
or whose checksum does not fit, hands on nothing; it is one ``Lost`` with its place, and reading goes on at the next
member that is whole. (A zstd frame written without a checksum has no proof to give: that it inflates is all there is.)

    pieces(raw)         bytes and Lost, in order                 lines(raw)      the same by line
    unpacked(raw)       a file object that raises Damaged        open_file(address), read_lines(address)
"""

import bz2
import codecs
import contextlib
import io
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple, Protocol, cast

from backports import zstd

from infra.errors import InputError
from infra.store.files import filesystem
from pipeline.sources.http import HttpFile, is_http

READ_BYTES = 256 << 10
INFLATE_BYTES = 64 << 10
"""At once: what a decompressor had found when it came to damage is lost with its error."""
PIECE_BYTES = 1 << 20
HELD_BYTES = 32 << 20
"""A member that inflates to more is inflated twice instead of held."""
LARGEST_LZMA_BYTES = 1 << 30
LONGEST_ZSTD_WINDOW = 31
"""``zstd --long=31``, as some public dumps are written: two gigabytes."""
WEB_ZSTD_WINDOW = 27
DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"
LARGEST_DICTIONARY = 64 << 20


class Inflater(Protocol):
    """One member's decompressor, in the form that bz2, lzma and zstd share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Gzip:
    """zlib's decompressor in that form."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max(0, max_length))


@dataclass(frozen=True)
class Codec:
    """How the members of one file are found and inflated."""

    name: str
    magic: re.Pattern[bytes]
    new: Callable[[], Inflater]
    block: bytes = b""
    """First bytes of a block, at any bit, where each has a checksum of its own: what a cut member gave is proven then."""


def _xz() -> Inflater:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, LARGEST_LZMA_BYTES)


def _zstd(dictionary: zstd.ZstdDict | None = None, window: int = LONGEST_ZSTD_WINDOW) -> Inflater:
    options = {int(zstd.DecompressionParameter.window_log_max): window}
    return cast(Inflater, zstd.ZstdDecompressor(dictionary, options))


# zstd's skippable frames hold no data; one at the beginning may hold the dictionary of all others.
CODECS = GZIP, BZIP2, XZ, ZSTD = (
    Codec("gzip", re.compile(rb"\x1f\x8b\x08[\x00-\x1f]", re.S), _Gzip),
    Codec("bzip2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", re.S), bz2.BZ2Decompressor, b"1AY&SY"),
    Codec("xz", re.compile(rb"\xfd7zXZ\x00", re.S), _xz),
    Codec("zstd", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.S), _zstd),
)
WEB_ZSTD = replace(ZSTD, new=lambda: _zstd(None, WEB_ZSTD_WINDOW))
"""zstd as the web has it: no frame may ask for more memory than a browser gives."""
LONGEST_MAGIC = 10
INFLATE_ERRORS = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, EOFError, ValueError)

ENDS_EARLY = "ends early"
LARGEST_BLOCK = 2 << 20
BZIP2_HEAD = 4

FOREIGN = (
    (b"PAR1", "a Parquet file"), (b"PK\x03\x04", "a zip archive"), (b"ARROW1", "an Arrow file"), (b"%PDF", "a PDF"),
    (b"\x04\x22\x4d\x18", "an lz4 file"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"SQLite format 3", "an SQLite database"),
    (b"Rar!", "a rar archive"), (b"\x1f\x9d", "a file of compress (.Z)"), (b"\x89HDF", "an HDF5 file"),
    (b"Obj\x01", "an Avro file"), (b"ORC", "an ORC file"), (b"\x80\x04\x95", "a Python pickle"),
    (b"<!DOCTYPE", "an HTML page"), (b"<html", "an HTML page"),
    (b"<mediawiki", "a MediaWiki dump"), (b"<?xml", "XML"), (b"WARC/", "a WARC archive"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
)  # fmt: skip


class Corrupt(Exception):
    """A member cannot be inflated, or is not what was compressed."""


class Damaged(Exception):
    """A file object came to a damaged member."""

    def __init__(self, lost: "Lost") -> None:
        super().__init__(f"{lost.why} (bytes {lost.start}+{lost.end - lost.start})")
        self.lost = lost


@dataclass(frozen=True)
class Lost:
    """Stored bytes ``[start, end)`` of which nothing is handed on, and why."""

    start: int
    end: int
    why: str


class TextLine(NamedTuple):
    """One line with its line feed; ``offset`` counts unpacked bytes. ``resumed``: what came before it was lost, so
    it may be the rest of a line."""

    offset: int
    data: bytes
    resumed: bool = False


class Overlong(NamedTuple):
    """A line longer than the limit."""

    offset: int
    length: int


def codec_of(raw: BinaryIO) -> Codec | None:
    """What the file is compressed with, by its first bytes; None for a plain one. Leaves the file at its beginning."""
    raw.seek(0)
    head = raw.read(LONGEST_MAGIC)
    raw.seek(0)
    codec = next((codec for codec in CODECS if codec.magic.match(head)), None)
    if codec is None or not head.startswith(DICTIONARY_FRAME):
        return codec
    dictionary = _dictionary(raw)
    return replace(codec, new=lambda: _zstd(dictionary)) if dictionary else codec


def _dictionary(raw: BinaryIO) -> zstd.ZstdDict | None:
    """The dictionary in a file's first frame (``.warc.zst``), itself compressed or not."""
    raw.seek(4)
    size = int.from_bytes(raw.read(4), "little")
    data = raw.read(size) if size <= LARGEST_DICTIONARY else b""
    raw.seek(0)
    with contextlib.suppress(zstd.ZstdError, ValueError):
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            data = zstd.decompress(data)
        return zstd.ZstdDict(data)
    return None


def foreign_format(head: bytes) -> str:
    """What a file is by its first bytes, where that is plain; empty where it is not."""
    compressed = next((f"compressed with {codec.name}" for codec in CODECS if codec.magic.match(head)), "")
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16 text"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return compressed or next((name for magic, name in FOREIGN if text[: len(magic)].lower() == magic.lower()), "")


class Member:
    """One member, from its first byte: its content, and afterwards where it ended."""

    def __init__(self, raw: BinaryIO, codec: Codec, start: int) -> None:
        self._raw, self._position = raw, start
        self._inflater = codec.new()
        self._name = codec.name
        self.start = start

    def chunks(self) -> Iterator[bytes]:
        """Reads to the member's end, so that its checksum is compared. Raises Corrupt."""
        self._raw.seek(self._position)
        while not self._inflater.eof:
            packed = self._raw.read(READ_BYTES) if self._inflater.needs_input else b""
            if self._inflater.needs_input and not packed:
                raise Corrupt(f"the {self._name} data {ENDS_EARLY}")
            self._position += len(packed)
            if data := self._inflate(packed, INFLATE_BYTES):
                yield data

    def head(self, size: int) -> bytes:
        """Its first bytes, at most so many. Nothing else can be read afterwards. Raises Corrupt."""
        self._raw.seek(self._position)
        data = b""
        while not data and not self._inflater.eof and (packed := self._raw.read(READ_BYTES)):
            self._position += len(packed)
            data = self._inflate(packed, size)
        return data

    def _inflate(self, packed: bytes, most: int) -> bytes:
        try:
            return self._inflater.decompress(packed, most)
        except INFLATE_ERRORS as error:
            raise Corrupt(f"the {self._name} data is damaged: {error}") from error

    @property
    def complete(self) -> bool:
        return self._inflater.eof

    @property
    def end(self) -> int:
        """Where the next member begins; known once this one is complete."""
        return self._position - len(self._inflater.unused_data)


def pieces(raw: BinaryIO, *, salvage: bool = False) -> Iterator[bytes | Lost]:
    """What the file holds, with what is lost of it. ``salvage`` hands on what a damaged member gave, without proof."""
    codec = codec_of(raw)
    if codec is None:
        while data := raw.read(PIECE_BYTES):
            yield data
        return
    position: int | None = 0
    while position is not None:
        member = Member(raw, codec, position)
        held, why = _proven(member)
        if why:
            if salvage or (codec.block and why.endswith(ENDS_EARLY)):
                with contextlib.suppress(Corrupt):
                    yield from Member(raw, codec, position).chunks()
                if codec.block and not salvage:
                    position = _last_block(raw, codec.block, position)
            following = next_member(raw, codec, position + 1)
            yield Lost(position, _end(raw) if following is None else following, why)
        else:
            yield from Member(raw, codec, position).chunks() if held is None else held
            following = member.end if begins_member(raw, codec, member.end) else next_member(raw, codec, member.end)
            stop = _end(raw) if following is None else following
            if stop > member.end and not is_padding(raw, member.end, stop):
                yield Lost(member.end, stop, f"what follows the {codec.name} data is none")
        position = following


def _last_block(raw: BinaryIO, mark: bytes, start: int) -> int:
    """Where the last block of a cut member begins. Blocks begin at any bit."""
    end = _end(raw)
    begin = max(start, end - LARGEST_BLOCK)
    raw.seek(begin)
    tail = int.from_bytes(b"\0" + raw.read(), "big")
    size = end - begin + 1
    found = []
    for shift in range(8):  # to the right, until its first bit is a byte's
        at = (tail >> shift).to_bytes(size, "big").rfind(mark)
        found.append(begin + at - 1 - (shift > 0) if at > 0 else start)
    return last if (last := max(found)) > start + BZIP2_HEAD else start


def _proven(member: Member) -> tuple[list[bytes] | None, str]:
    """The member's content, or None where it is too much to hold; and what is wrong with the member."""
    held: list[bytes] | None = []
    size = 0
    try:
        for chunk in member.chunks():
            size += len(chunk)
            if held is not None and size <= HELD_BYTES:
                held.append(chunk)
            else:
                held = None
    except Corrupt as corrupt:
        return None, str(corrupt)
    return held, ""


def unproven_head(raw: BinaryIO, size: int) -> bytes:
    """The first bytes of the content, for a look: a checksum would take the whole file."""
    codec = codec_of(raw)
    if codec is None:
        return raw.read(size)
    found = bytearray()
    with contextlib.suppress(Corrupt):
        for chunk in Member(raw, codec, 0).chunks():
            found += chunk
            if len(found) >= size:
                break
    return bytes(found[:size])


def begins_member(raw: BinaryIO, codec: Codec, position: int) -> bool:
    raw.seek(position)
    return bool(codec.magic.match(raw.read(LONGEST_MAGIC)))


def has_checksum(raw: BinaryIO, codec: Codec, position: int) -> bool:
    """Whether the member that begins here carries a checksum of its content: zstd frames may not."""
    if codec.name != "zstd":
        return True
    raw.seek(position + 4)
    return any(descriptor & 4 for descriptor in raw.read(1))


def next_member(raw: BinaryIO, codec: Codec, position: int) -> int | None:
    """Where the next member that is whole begins."""
    for place in places(raw, codec.magic, position):
        if _proven(Member(raw, codec, place))[1] == "":
            return place
    return None


def places(raw: BinaryIO, magic: re.Pattern[bytes], position: int) -> Iterator[int]:
    """Where these bytes occur from ``position`` on."""
    window, base = b"", position
    while True:
        raw.seek(base + len(window))
        chunk = raw.read(READ_BYTES)
        window += chunk
        for match in magic.finditer(window):
            yield base + match.start()
        if not chunk:
            return
        kept = min(len(window), LONGEST_MAGIC - 1)
        last = max((match.end() for match in magic.finditer(window)), default=0)
        kept = min(kept, len(window) - last)
        window, base = window[len(window) - kept :], base + len(window) - kept


def is_padding(raw: BinaryIO, begin: int, end: int) -> bool:
    """Whether there is nothing but zeros and line ends."""
    raw.seek(begin)
    while begin < end and (chunk := raw.read(min(READ_BYTES, end - begin))):
        if chunk.strip(b"\0\r\n"):
            return False
        begin += len(chunk)
    return True


def _end(raw: BinaryIO) -> int:
    return raw.seek(0, io.SEEK_END)


def lines(raw: BinaryIO, longest: int, *, salvage: bool = False) -> Iterator[TextLine | Overlong | Lost]:
    """The lines of a file, whatever it is compressed with; UTF-16 and UTF-32 with their mark, or JSON's, become UTF-8."""
    offset, rest, skipped, resumed = 0, b"", 0, False
    for piece in _as_utf8(pieces(raw, salvage=salvage)):
        if isinstance(piece, Lost):
            # The line that was begun goes on in what is lost.
            offset, rest, skipped, resumed = offset + skipped + len(rest), b"", 0, True
            yield piece
            continue
        first, feed, more = piece.partition(b"\n")
        if not feed:
            rest += first
        elif skipped:
            yield Overlong(offset, skipped + len(rest) + len(first) + 1)
            offset, skipped, rest, resumed = offset + skipped + len(rest) + len(first) + 1, 0, b"", False
        else:
            whole = rest + first + feed
            yield TextLine(offset, whole, resumed) if len(whole) <= longest else Overlong(offset, len(whole))
            offset, rest, resumed = offset + len(whole), b"", False
        if feed:
            *complete, rest = more.split(b"\n")
            for line in complete:
                yield TextLine(offset, line + b"\n") if len(line) < longest else Overlong(offset, len(line) + 1)
                offset += len(line) + 1
        if len(rest) > longest:
            skipped, rest = skipped + len(rest), b""
    if skipped:
        yield Overlong(offset, skipped + len(rest))
    elif rest:
        yield TextLine(offset, rest, resumed)


def _as_utf8(found: Iterator[bytes | Lost]) -> Iterator[bytes | Lost]:
    first = next(found, None)
    head = first if isinstance(first, bytes) else b""
    wide = "utf-32" if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) else "utf-16"
    marked = wide == "utf-32" or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if head[:4] in (b'{\0"\0', b'\0{\0"'):  # JSON begins with ASCII, and needs no mark
        wide, marked = ("utf-16-be" if head[0] == 0 else "utf-16-le"), True
    decoder = codecs.getincrementaldecoder(wide)("replace") if marked else None
    while first is not None:
        if decoder is None or isinstance(first, Lost):
            yield first
        else:
            yield decoder.decode(first).encode("utf-8", "surrogatepass")
        first = next(found, None)


class _Unpacked(io.RawIOBase):
    """The pieces as a file that cannot be sought in."""

    def __init__(self, raw: BinaryIO, *, salvage: bool) -> None:
        super().__init__()
        self._pieces = pieces(raw, salvage=salvage)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        if not self._piece:
            found = next(self._pieces, b"")
            if isinstance(found, Lost):
                raise Damaged(found)
            self._piece = memoryview(found)
        size = min(len(view), len(self._piece))
        view[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size


def unpacked(raw: BinaryIO, *, salvage: bool = False) -> BinaryIO:
    """The file itself if it is plain, else its content, read front to back; raises Damaged where that is lost."""
    if codec_of(raw) is None:
        return raw
    return cast(BinaryIO, io.BufferedReader(_Unpacked(raw, salvage=salvage), READ_BYTES))


@contextlib.contextmanager
def seekable(raw: BinaryIO) -> Iterator[BinaryIO]:
    """As ``unpacked``, for formats that are not read front to back: compressed content lies in a temporary file."""
    content = unpacked(raw)
    if content is raw:
        yield raw
        return
    with tempfile.TemporaryFile(prefix="headwater-unpacked-") as file:
        shutil.copyfileobj(content, file, PIECE_BYTES)
        file.seek(0)
        yield cast(BinaryIO, file)


@contextlib.contextmanager
def open_file(address: str) -> Iterator[BinaryIO]:
    """A user's file at any fsspec address, unpacked. Damage is an InputError."""
    fs, path = filesystem(address) if not is_http(address) else (None, address)
    try:
        with cast(BinaryIO, fs.open(path, "rb") if fs is not None else HttpFile(address)) as raw:
            yield unpacked(raw)
    except Damaged as damaged:
        raise InputError(f"the file is damaged: {damaged}", where=address, remedy="Fetch it again.") from None


def read_lines(address: str) -> Iterator[bytes]:
    """Its lines."""
    with open_file(address) as stream:
        yield from stream
