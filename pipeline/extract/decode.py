"""From the bytes of an HTTP body to characters.

Two steps, each against what real archives hold:

* ``unpack`` undoes transfer and content encodings, within a bound (a few kilobytes can unpack to gigabytes). Crawlers
  often store the decoded body and keep the header, so an encoding is undone only where the bytes show it.
* ``decode`` finds the charset by byte-order mark, HTTP header, meta element, detection, in this order, and takes the
  first that fits the bytes. Text that is valid UTF-8 throughout is UTF-8 whatever was declared: a Latin-1 label never
  fails to decode, but many multi-byte sequences do not come about by chance.
"""

import io
import re
import zlib
from dataclasses import dataclass
from itertools import islice

from fastwarc.stream_io import BrotliReader
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from pipeline.extract.refusal import Refused

BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
META_CHARSET = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.I
)
META_WINDOW = 8192
DETECTION_WINDOW = 65_536
CHUNK_HEAD = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(?:;[^\r\n]{0,200})?\r?\n")
MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
CERTAIN_SEQUENCES = 8
MAX_ENCODINGS = 4


@dataclass(frozen=True)
class Decoded:
    """Text, the codec that made it, and what named the codec: ``bom, header, meta, utf-8, detected``."""

    text: str
    charset: str
    evidence: str


def unpack(body: bytes, content_encoding: str, transfer_encoding: str, max_bytes: int) -> bytes:
    """The body without its encodings; at most ``max_bytes`` or ``Refused``."""
    if "chunked" in transfer_encoding.lower() and CHUNK_HEAD.match(body):
        body = _dechunk(body, max_bytes)
    encodings = [name for name in re.split(r"[,\s]+", content_encoding.lower()) if name not in ("", "identity", "none")]
    if len(encodings) > MAX_ENCODINGS:
        raise Refused("failed", "content_encoding", f"{len(encodings)} content encodings on one body")
    for name in reversed(encodings):
        if name in ("gzip", "x-gzip"):
            if body[:2] == b"\x1f\x8b":
                body = _inflate(body, 31, max_bytes, name)
        elif name == "deflate":
            body = _deflate(body, max_bytes)
        elif name == "br":
            body = _brotli(body, max_bytes)
        elif not _looks_like_text(body):
            raise Refused("failed", "content_encoding", f"unknown content encoding {name[:40]}")
    if len(body) > max_bytes:
        raise Refused("dropped", "page_too_large", score=float(len(body)), threshold=float(max_bytes))
    return body


def _inflate(body: bytes, window_bits: int, max_bytes: int, name: str) -> bytes:
    stream = zlib.decompressobj(window_bits)
    try:
        data = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Refused("failed", "content_encoding", f"damaged {name} body: {error}") from None
    if len(data) > max_bytes:
        raise _bomb(len(body), max_bytes)
    if not stream.eof:
        raise Refused("failed", "content_encoding", f"the {name} body ends early")
    return data


def _deflate(body: bytes, max_bytes: int) -> bytes:
    """``deflate`` means zlib, but many servers send a raw stream; and archives store plain text under that header."""
    is_zlib = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    try:
        return _inflate(body, 15 if is_zlib else -15, max_bytes, "deflate")
    except Refused as refused:
        if refused.verdict == "failed" and _looks_like_text(body):
            return body
        raise


def _brotli(body: bytes, max_bytes: int) -> bytes:
    try:
        data = _read_up_to(BrotliReader(io.BytesIO(body)), max_bytes + 1)
    except OSError as error:
        if _looks_like_text(body):
            return body
        raise Refused("failed", "content_encoding", f"damaged br body: {error}") from None
    if len(data) > max_bytes:
        raise _bomb(len(body), max_bytes)
    return data


def _dechunk(body: bytes, max_bytes: int) -> bytes:
    """Chunks joined; what a cut transfer left of the last one counts. Not chunks after all: the body as it is."""
    pieces: list[bytes] = []
    at = total = 0
    while head := CHUNK_HEAD.match(body, at):
        size = int(head[0].split(b";", 1)[0], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(body[head.end() : head.end() + size])
        total += len(pieces[-1])
        at = head.end() + size
        at += 2 if body[at : at + 2] == b"\r\n" else 1
        if total > max_bytes:
            break
    return b"".join(pieces) if at >= len(body) or total > max_bytes else body


def _read_up_to(reader: BrotliReader, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := reader.read(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _bomb(packed: int, max_bytes: int) -> Refused:
    return Refused(
        "dropped", "decompression_bomb", f"{packed} bytes unpack to more than {max_bytes}", threshold=float(max_bytes)
    )


def _looks_like_text(body: bytes) -> bool:
    """Markup or other text at the beginning: packed data has control bytes within its first bytes."""
    head = body[:512]
    return not any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in head)


def decode(body: bytes, header_charset: str = "", *, html: bool = True) -> Decoded:
    """Characters of a page. Never fails: undecodable bytes become U+FFFD."""
    for mark, codec in BOMS:
        if body.startswith(mark):
            return Decoded(body[len(mark) :].decode(codec, "replace"), codec, "bom")
    declared = [(header_charset, "header")]
    if html and (meta := META_CHARSET.search(body, 0, META_WINDOW)):
        declared.append((meta[1].decode("ascii"), "meta"))
    candidates = [(known, evidence) for label, evidence in declared if (known := _codec(label, evidence))]
    utf8 = _strict(body, "utf-8")
    if utf8 is not None and _surely_utf8(body, utf8):
        said_so = next((evidence for codec, evidence in candidates if codec == "utf-8"), "utf-8")
        return Decoded(utf8, "utf-8", said_so)
    for codec, evidence in candidates:
        text = utf8 if codec == "utf-8" else _strict(body, codec)
        if text is not None:
            return Decoded(text, codec, evidence)
    if utf8 is not None:
        return Decoded(utf8, "utf-8", "utf-8")
    if candidates and _nearly(body, candidates[0][0]):
        codec, evidence = candidates[0]
        return Decoded(body.decode(codec, "replace"), codec, evidence)
    detected = detect_encoding(body[:DETECTION_WINDOW]) or "cp1252"
    return Decoded(body.decode(detected, "replace"), detected, "detected")


def _codec(label: str, evidence: str) -> str | None:
    """The Python codec for a label of the web. A meta element that can be read as ASCII cannot be UTF-16."""
    codec: str | None = map_encoding_to_html5(label.strip(" \"'"), fallback_utf8=False) if label else None
    return "utf-8" if codec and evidence == "meta" and codec.startswith("utf-16") else codec


def _strict(body: bytes, codec: str) -> str | None:
    try:
        return body.decode(codec)
    except UnicodeDecodeError as error:
        # A page cut off within its last character is still in its charset.
        if error.start >= len(body) - 4 and codec in (
            "utf-8",
            "gbk",
            "gb18030",
            "big5",
            "euc_jp",
            "euc_kr",
            "shift_jis",
        ):
            return body[: error.start].decode(codec)
        return None


def _surely_utf8(body: bytes, text: str) -> bool:
    if len(text) >= len(body) - 4 and text.isascii():
        return False
    return next(islice(MULTIBYTE.finditer(body), CERTAIN_SEQUENCES - 1, None), None) is not None


def _nearly(body: bytes, codec: str) -> bool:
    """A few broken bytes (a mixed-in advertisement, a cut) do not disprove the declared charset."""
    sample = body[:DETECTION_WINDOW].decode(codec, "replace")
    return sample.count("�") * 100 <= len(sample)
