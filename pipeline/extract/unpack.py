"""Undoing the encodings of an HTTP body, within a bound: a few kilobytes can unpack to gigabytes.

Content encodings were applied first, transfer codings after them; they are undone in the other order. Crawlers often store
the decoded body and keep the header, and servers forget the header of what they packed: an encoding is undone where
the bytes show it.
"""

import io
import re
import zlib
from collections.abc import Iterable

from fastwarc.stream_io import BrotliReader

from pipeline.compression import GZIP, WEB_ZSTD, Codec, Corrupt, Member
from pipeline.extract.refusal import Refused

CHUNK_HEAD = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(?:;[^\r\n]{0,200})?\r?\n")
FIRST_CHUNK = re.compile(rb"[0-9A-Fa-f]{2,8}[ \t]*\r\n")
LAST_CHUNK = re.compile(rb"\r\n0+[ \t]*\r\n(?:[!-9;-~]{1,60}:[^\r\n]{0,400}\r\n){0,8}(?:\r\n)?\Z")
"""Of a body that nobody says is chunked: with CR and LF, and to the end."""
LAST_BYTES = 4096
LINE_ENDS = re.compile(rb"[\r\n]+")
"""Behind a chunk: one, and of some servers empty lines after it."""
LEAST_CHUNKED = 64
"""Fewer bytes may be lines of numbers, which read as chunks by chance."""
CUT_HEAD = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")
PARAMETERS = re.compile(r";[^,]*|[\"']")
MAX_ENCODINGS = 4
PACKED: dict[str, Codec] = {"gzip": GZIP, "x-gzip": GZIP, "zstd": WEB_ZSTD}
NONE = ("", "identity", "none")


def unpack(body: bytes, content_encoding: str, transfer_encoding: str, max_bytes: int) -> bytes:
    """The body without its encodings; at most ``max_bytes`` or ``Refused``."""
    declared = re.split(r"[,\s]+", PARAMETERS.sub("", f"{content_encoding},{transfer_encoding}".lower()))
    names = [name for name in declared if name not in NONE]
    if len(names) > MAX_ENCODINGS:
        raise Refused("failed", "content_encoding", f"{len(names)} content encodings on one body")
    for name in reversed(names):
        body = _without(body, name, max_bytes)
    if FIRST_CHUNK.match(body) and LAST_CHUNK.search(body, max(0, len(body) - LAST_BYTES)):
        body = _dechunk(body, max_bytes, whole=True)
    for codec in (GZIP, WEB_ZSTD):  # nobody said so
        if codec.magic.match(body):
            body = _members(body, codec, max_bytes)
    if len(body) > max_bytes:
        raise Refused("dropped", "page_too_large", score=float(len(body)), threshold=float(max_bytes))
    return body


def _without(body: bytes, name: str, max_bytes: int) -> bytes:
    if name == "chunked":
        chunks = body.lstrip(b"\r\n")
        return _dechunk(chunks, max_bytes) if CHUNK_HEAD.match(chunks) else body
    if codec := PACKED.get(name):
        return _members(body, codec, max_bytes) if codec.magic.match(body) else body
    if any(codec.magic.match(body) for codec in (GZIP, WEB_ZSTD)):
        return body  # another than was said: undone at the end
    if name == "deflate":
        return _deflate(body, max_bytes)
    if name == "br":
        return _brotli(body, max_bytes)
    if not _looks_like_text(body):
        raise Refused("failed", "content_encoding", f"unknown content encoding {name[:40]}")
    return body


def _members(body: bytes, codec: Codec, max_bytes: int) -> bytes:
    """All members of the body joined; what follows the last is passed over, as browsers do."""
    raw, position, pieces = io.BytesIO(body), 0, []
    try:
        while codec.magic.match(body, position):
            member = Member(raw, codec, position)
            pieces.append(_bounded(member.chunks(), max_bytes, len(body)))
            position = member.end
    except Corrupt as corrupt:
        raise Refused("failed", "content_encoding", str(corrupt)[:200]) from None
    return _bounded(pieces, max_bytes, len(body))


def _bounded(chunks: Iterable[bytes], max_bytes: int, packed: int) -> bytes:
    pieces, size = [], 0
    for chunk in chunks:
        pieces.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise Refused(
                "dropped",
                "decompression_bomb",
                f"{packed} bytes unpack to more than {max_bytes}",
                threshold=float(max_bytes),
            )
    return b"".join(pieces)


def _deflate(body: bytes, max_bytes: int) -> bytes:
    """``deflate`` means zlib, but many servers send a raw stream; and archives store plain text under that header."""
    is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    stream = zlib.decompressobj(15 if is_zlib else -15)
    try:
        data = _bounded([stream.decompress(body, max_bytes + 1)], max_bytes, len(body))
        if stream.eof:
            return data
        why = "the deflate data ends early"
    except zlib.error as error:
        why = f"the deflate data is damaged: {error}"
    if _looks_like_text(body):
        return body
    raise Refused("failed", "content_encoding", why)


def _brotli(body: bytes, max_bytes: int) -> bytes:
    reader = BrotliReader(io.BytesIO(body))
    try:
        return _bounded(iter(lambda: reader.read(1 << 20), b""), max_bytes, len(body))
    except OSError as error:
        if _looks_like_text(body):
            return body
        raise Refused("failed", "content_encoding", f"the br data is damaged: {error}") from None


def _dechunk(body: bytes, max_bytes: int, *, whole: bool = False) -> bytes:
    """Chunks joined; what a cut transfer left of the last one counts. Not chunks after all: the body as it is.

    A body that begins in chunks and does not go on in them is damaged: its text would have their sizes in it.
    """
    pieces: list[bytes] = []
    at = total = 0
    while head := CHUNK_HEAD.match(body, at):
        size = int(head[0].split(b";", 1)[0], 16)
        if not size:
            return b"".join(pieces)
        if whole and head.end() + size > len(body):
            break
        end = head.end() + size
        lines = LINE_ENDS.match(body, end)
        if lines is None and end < len(body):
            break
        pieces.append(body[head.end() : end])
        total += len(pieces[-1])
        at = lines.end() if lines else end
        if total > max_bytes:
            break
    if at >= len(body) or total > max_bytes or CUT_HEAD.fullmatch(body, at):
        return b"".join(pieces)
    if total >= LEAST_CHUNKED and not whole:
        raise Refused("failed", "content_encoding", f"no chunk begins at byte {at} of the body")
    return body


def _looks_like_text(body: bytes) -> bool:
    """Markup or other text at the beginning: packed data has control bytes within its first bytes."""
    head = body[:512]
    return not any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in head)
