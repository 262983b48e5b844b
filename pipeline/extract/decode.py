"""From the bytes of an unpacked HTTP body to characters.

``decode`` finds the encoding by byte-order mark, HTTP header, meta element, detection, in this order, and takes the first
that fits the bytes (``charsets.py`` knows what a label means). Text that is valid UTF-8 throughout is UTF-8 whatever was
declared: a Latin-1 label never fails to decode, but many multi-byte sequences do not come about by chance.
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from resiliparse.parse.encoding import detect_encoding

from pipeline.extract.charsets import CODECS, REPLACEMENT, TWO_BYTES, UTF_16, decode_as, encoding_named
from pipeline.extract.refusal import Refused

BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16le"),
    (b"\xfe\xff", "utf-16be"),
)
MARKUP = re.compile(rb"<!--.*?(?:-->|\Z)|<meta[\s/](?P<meta>[^>]{1,1000})|<\?xml(?P<xml>[^>]{1,300})", re.I | re.S)
XML_ENCODING = re.compile(rb"""encoding\s*=\s*["']\s*([^"'\s>]{1,40})""", re.I)
ATTRIBUTE = re.compile(rb"""([a-z-]{1,30})\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""", re.I)
MIME_TYPE = re.compile(rb"\s*(?:text|application)/[a-z+]{1,20}\s*;", re.I)
CONTENT_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([^\s"';,>]{1,40})""", re.I)
LABEL = re.compile(rb"\s*([^;,]{1,40})")
META_WINDOW = 8192
DETECTION_WINDOW = 65_536
SEVEN_BITS = ((b"\x1b$B", "iso-2022-jp"), (b"\x1b$@", "iso-2022-jp"), (b"\x1b$)C", "iso-2022-kr"))
"""Escape sequences of encodings whose bytes are all ASCII, and so valid UTF-8 too."""
UTF_16_WINDOW = 4096
FEWEST_ZEROS = 0.1
"""Of one half of the bytes: the tags of a page alone are more, in any language."""
BINARY_WINDOW = 1024
SIGNATURES = (b"%PDF-", b"\x89PNG\r\n", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x7fELF", b"Rar!\x1a",
              b"7z\xbc\xaf", b"\xd0\xcf\x11\xe0\xa1\xb1", b"OggS", b"ID3\x03", b"ID3\x04", b"wOFF", b"wOF2", b"\x28\xb5\x2f\xfd",
              b"\xca\xfe\xba\xbe", b"BZh9", b"\xfd7zXZ\x00", b"\x00asm")  # fmt: skip
CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
NO_CHARACTER = re.compile("[\ufffd\x80-\x9f]")
SIBLINGS = {"iso-8859-2": "windows-1250", "iso-8859-7": "windows-1253", "iso-8859-13": "windows-1257"}
C1_LETTER = re.compile(rb"[\x8a\x8c-\x8f\x9a\x9c-\x9f]")
C1_BYTE = re.compile(rb"[\x80-\x9f]")
CYRILLIC_WORD = re.compile(rb"[\xb2\xb3\xb4\xa5\xaa\xaf\xb8\xba\xbf\xc0-\xff]{4,}")
UKRAINIAN_KOI8 = re.compile(rb"[\xc0-\xff][\xa4\xa6\xa7\xad]|[\xa4\xa6\xa7\xad][\xc0-\xff]")
PRIVATE = re.compile("[\ue000-\uf8ff]")
HIGH_BYTES = bytes(range(0x80, 0x100))
HANGUL = re.compile("[\uac00-\ud7a3]")
FREQUENT_BIG5 = re.compile(rb"[\xa4-\xc6][\x40-\x7e\xa1-\xfe]")
FEWEST_CHARACTERS = 8
NOT_ASCII = re.compile("[^\x00-\x7f]")
MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
CERTAIN_SEQUENCES = 8


Evidence = Literal["bom", "header", "meta", "utf-8", "detected"]


@dataclass(frozen=True)
class Decoded:
    """Text, its encoding by the standard's name, and what told the encoding."""

    text: str
    charset: str
    evidence: Evidence


def decode(body: bytes, header_charset: str = "", *, html: bool = True) -> Decoded:
    """Characters of a page; undecodable bytes become U+FFFD. ``Refused`` where no decoder exists for what is declared."""
    for mark, name in BOMS:
        if body.startswith(mark):
            return Decoded(decode_as(body[len(mark) :], name, "replace"), name, "bom")
    candidates = _declared(body, header_charset, html)
    if wide := _utf_16(body, candidates):
        return wide
    candidates = _weighed(body, [(name, evidence) for name, evidence in candidates if name not in UTF_16])
    utf8 = _strict(body, "utf-8")
    if utf8 is not None and _surely_utf8(body, utf8, candidates[0][0] if candidates else ""):
        return Decoded(utf8, "utf-8", _said_so("utf-8", candidates) or "utf-8")
    for name, evidence in candidates:
        text = utf8 if name == "utf-8" else _strict(body, name)
        if text is not None and not (name in TWO_BYTES and _is_mostly_private(text)):
            return Decoded(text, name, evidence)
    if utf8 is not None:
        seven_bits = next((name for mark, name in SEVEN_BITS if mark in body), None)
        text = _strict(body, seven_bits) if seven_bits else None
        return Decoded(utf8, "utf-8", "utf-8") if text is None else Decoded(text, seven_bits or "", "detected")
    for name, evidence in [*candidates, ("utf-8", "detected")]:
        if _nearly(body, name):
            return Decoded(decode_as(body, name, "replace"), name, evidence)
    detected = _detected(body)
    return Decoded(decode_as(body, detected, "replace"), detected, "detected")


def _detected(body: bytes) -> str:
    """The detector's word, where it holds.

    It says UTF-8 of pages with a few letters of an encoding of one byte, windows-1252 of Korean and of Hong Kong's
    Chinese, and names ISO's sibling of a Windows encoding for text that has quotes and letters where ISO has controls.
    """
    window = body[:DETECTION_WINDOW]
    name = encoding_named(detect_encoding(window) or "") or "windows-1252"
    if name == "utf-8" and not _nearly(body, name):
        name = "windows-1252"
    if name == "windows-1252":
        name = next((name for name in ("euc-kr", "big5") if _is_east_asian(window, name)), name)
        return "windows-1251" if name == "windows-1252" and _is_cyrillic(window) else name
    if name in ("gbk", "gb18030") and _is_mostly_private(decode_as(window, name, "replace")):
        return "big5" if _is_east_asian(window, "big5") else name
    if name == "koi8-r" and UKRAINIAN_KOI8.search(window):
        return "koi8-u"
    if name in SIBLINGS and C1_BYTE.search(window):
        return SIBLINGS[name]
    return name


def _weighed(body: bytes, candidates: list[tuple[str, Evidence]]) -> list[tuple[str, Evidence]]:
    """What is declared, the likelier first; an encoding of ISO's as the Windows one whose letters stand in ISO's controls.

    Servers send Latin-1 with whatever they have: where the page names another and the detector too, two speak against one.
    """
    if len(candidates) == 2 and candidates[0][0] == "windows-1252" != candidates[1][0] != "utf-8":
        candidates = candidates[::-1] if _codec(_detected(body)) == _codec(candidates[1][0]) else candidates
    return [
        ("windows-1250" if name == "iso-8859-2" and C1_LETTER.search(body) else name, by) for name, by in candidates
    ]


def _codec(name: str) -> str:
    return CODECS.get(name, name)


def _is_mostly_private(text: str) -> bool:
    """Characters that no standard has, more than some of somebody's own: so Big5 reads as GBK."""
    return len(PRIVATE.findall(text)) * 10 > max(len(NOT_ASCII.findall(text)), FEWEST_CHARACTERS * 10)


def _is_cyrillic(window: bytes) -> bool:
    """Whether the high bytes stand in words of their own: Latin letters with marks are seldom three in a row."""
    high = len(window) - len(window.translate(None, HIGH_BYTES))
    return sum(map(len, CYRILLIC_WORD.findall(window))) * 2 > high >= FEWEST_CHARACTERS


def _is_east_asian(window: bytes, name: str) -> bool:
    """Whether the characters would be Hangul, or the frequent half of Big5, and not Latin letters paired by chance."""
    text = _strict(window, name) or ""
    characters = len(NOT_ASCII.findall(text))
    high = len(window) - len(window.translate(None, HIGH_BYTES))
    if characters < FEWEST_CHARACTERS or high * 10 < characters * 13:
        return False
    frequent = len(HANGUL.findall(text)) if name == "euc-kr" else len(FREQUENT_BIG5.findall(window))
    return frequent * 2 > characters


def _declared(body: bytes, header_charset: str, html: bool) -> list[tuple[str, Evidence]]:
    """What the header and the page itself name, in the order in which they count."""
    found: list[tuple[str, Evidence]] = []
    if header_charset and (name := encoding_named(header_charset)):
        found.append((name, "header"))
    if html and (name := encoding_in_markup(body)):
        found.append((name, "meta"))
    if found and found[0][0] == REPLACEMENT and b"\x1b$" in body:
        raise Refused("failed", "encoding", "ISO-2022-CN, for which there is no decoder")
    return [(name, evidence) for name, evidence in found if name != REPLACEMENT]


def _said_so(name: str, candidates: list[tuple[str, Evidence]]) -> Evidence | None:
    return next((evidence for known, evidence in candidates if known == name), None)


def encoding_in_markup(body: bytes) -> str | None:
    """The encoding that a meta element or the XML declaration names, as HTML's own prescan finds it.

    The prescan stops after 1024 bytes; browsers start again when they meet a meta element later, and so does this.
    """
    for match in MARKUP.finditer(body, 0, META_WINDOW):
        if match["xml"]:
            label = XML_ENCODING.search(match["xml"])
        elif match["meta"]:
            label = _charset_of_meta(match["meta"])
        else:
            continue  # a comment
        name = encoding_named(label[1].decode("latin-1")) if label else None
        if name in UTF_16:
            return "utf-8"  # what can be read as ASCII is not UTF-16
        if name:
            return "windows-1252" if name == "x-user-defined" else name
    return None


def _charset_of_meta(attributes: bytes) -> re.Match[bytes] | None:
    """The label in ``charset=…``, or in the content of what stands for the header Content-Type."""
    values: dict[bytes, bytes] = {}
    for match in ATTRIBUTE.finditer(attributes):
        values.setdefault(match[1].lower(), match[2].strip(b"\"'"))
    if b"charset" in values:
        return LABEL.match(values[b"charset"])
    content = values.get(b"content", b"")
    if values.get(b"http-equiv", b"").strip().lower() == b"content-type" or MIME_TYPE.match(content):
        return CONTENT_CHARSET.search(content)
    return None


def _utf_16(body: bytes, candidates: list[tuple[str, Evidence]]) -> Decoded | None:
    """UTF-16 without a byte-order mark: declared by the header, or shown by the zeros beside ASCII characters.

    A header that says so of a page in another encoding is common too: the bytes must not speak against it.
    """
    sample = body[:UTF_16_WINDOW]
    pairs = max(len(sample) // 2, 1)
    low, high = sample[1::2].count(0) / pairs, sample[0::2].count(0) / pairs
    if max(low, high) >= FEWEST_ZEROS and min(low, high) < max(low, high) / 8:
        name = "utf-16le" if low > high else "utf-16be"
    else:
        name = next((name for name, _ in candidates if name in UTF_16), "")
        if not name or _strict(body, name) is None or _strict(body, "utf-8") is not None:
            return None
    return Decoded(decode_as(body, name, "replace"), name, _said_so(name, candidates) or "detected")


def is_binary(body: bytes, text: str) -> bool:
    """Whether something else than text lies under a text's name: decoded first, so that no encoding looks like data.

    Zeros alone are no sign (they come from fixed buffers and broken templates, and cost only themselves) unless they
    are a third of everything.
    """
    if body.startswith(SIGNATURES):
        return True
    sample = text[:BINARY_WINDOW]
    zeros = sample.count("\0")
    controls = len(CONTROL.findall(sample))
    return zeros * 3 > len(sample) or controls * 20 > len(sample) - zeros


def _strict(body: bytes, name: str) -> str | None:
    try:
        return decode_as(body, name)
    except UnicodeDecodeError:
        return None


def _surely_utf8(body: bytes, text: str, declared: str) -> bool:
    """Sequences enough that they did not come about by chance: two letters that happen to look like one in UTF-8 are
    common in encodings of two bytes, and hardly ever all that a page has in encodings of one."""
    if len(text) >= len(body) - 4 and text.isascii():
        return False
    enough = CERTAIN_SEQUENCES if declared in TWO_BYTES else 1
    return next(islice(MULTIBYTE.finditer(body), enough - 1, None), None) is not None


def _nearly(body: bytes, name: str) -> bool:
    """A few broken bytes (a mixed-in advertisement, a cut) do not disprove the declared encoding, if others speak for it."""
    sample = decode_as(body[:DETECTION_WINDOW], name, "replace")
    if name in TWO_BYTES and _is_mostly_private(sample):
        return False
    broken = len(NO_CHARACTER.findall(sample))
    if name == "utf-8" and broken * 10 <= len(NOT_ASCII.findall(sample)):
        return True  # its sequences do not come about by chance
    return broken * 100 <= len(sample) and 2 * broken <= len(NOT_ASCII.findall(sample))
