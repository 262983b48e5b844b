"""The encodings of the web: what a label means, and bytes to characters, by the WHATWG Encoding Standard.

Python's codecs do the work, since they are in C; their tables are not quite the standard's. What they lack is filled in
by an error handler at the place where they stop (``_GAPS``, the C1 controls of the windows code pages, the vendors'
characters of EUC-JP); what they read as another character is exchanged afterwards (``_EXCHANGED``: in none of these
encodings does any other byte sequence stand for the character exchanged). ISO-2022-JP is read as the EUC-JP it is.

Wider than the standard: the labels that it refuses to decode because they can hide scripts (``hz-gb-2312``,
``iso-2022-kr``) are read, for nothing here runs scripts; and labels that only Python knows are taken at its word.
"""

import codecs
import re
from functools import cache, partial
from typing import Final, Literal

import webencodings

UTF_16: Final = ("utf-16le", "utf-16be")
REPLACEMENT: Final = "replacement"
"""The name for labels whose bytes cannot be read."""
REFUSED_BY_THE_STANDARD = {"hz-gb-2312": "hz", "iso-2022-kr": "iso-2022-kr", "csiso2022kr": "iso-2022-kr"}
OF_PYTHON = re.compile(r"(?:cp|kz|ptcp|mac-|koi8-|iso8859-)[\w-]{1,20}|hp-roman8")
MISSPELT = re.compile(
    r"(?:x[-_])?(?:windows|win|cp|microsoft)[-_ ]?(?:cp[-_ ]?)?(125[0-8]|874)\Z|(big|gb)[-_ ](5|2312|k|18030)\Z"
)
ASCII = bytes(range(32, 127))
TWO_BYTES = frozenset({"big5", "euc-jp", "euc-kr", "gb18030", "gbk", "shift_jis"})
CODECS = {
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "gbk": "gb18030",
    "iso-2022-kr": "iso2022_kr",
    "iso-8859-8-i": "iso8859_8",
    "macintosh": "mac_roman",
    "shift_jis": "cp932",
    "utf-16be": "utf_16_be",
    "utf-16le": "utf_16_le",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac_cyrillic",
}
STANDARD_NAMES = {
    "cp932": "shift_jis",
    "cp949": "euc-kr",
    "cp950": "big5",
    "big5hkscs": "big5",
    "iso2022_jp": "iso-2022-jp",
}

_FROM_GB18030 = "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue81e\ue826\ue82b\ue82c\ue832\ue843"
_TO_GB18030 = "\u3000︐︒︑︓︔︕︖︗︘︙龴龵龶龷龸龹"
_GB18030 = str.maketrans(_FROM_GB18030 + "\ue854\ue864\ue7c7ḿ", _TO_GB18030 + "龺龻ḿ\ue7c7")
_EXCHANGED: dict[str, dict[int, int]] = {
    "big5": str.maketrans("•､‾∼♁☉¥¢£", "‧﹑¯～⊕⊙￥￠￡"),
    "euc-jp": str.maketrans("〜‖−¢£¬", "～∥－￠￡￢"),
    "gb18030": _GB18030,
    "gbk": _GB18030,
    "koi8-u": str.maketrans("╝╬", "ўЎ"),
    "shift_jis": str.maketrans("\uf8f0\uf8f1\uf8f2\uf8f3", 4 * "\ufffd"),
}
_BIG5_RUNS = (
    "877a㡵𡵓𣚞𦀡㻬𥣞㫵竼龗𤅡𨤍𣇪𠪊𣉞䌊蒄龖鐯䤰蘓墖靊鈘秐稲晠権袝瑌篅枂稬剏遆㓦珄𥶹瓆鿇垳䤯呌䄱𣚎堘穲"
    "𧭥讏䚮𦺈䆁𥶙箮𢒼鿈𢓁𢓉𢓌鿉蔄𣖻䂴鿊䓡𪷿拁灮鿋 8e69箸 8e6f簆 8e7e糎 8eab緒 8eb4縝 8ecd者 8ed0耨 8f57菁 "
    "8f69蒨 8f6e萏 8fcb覦覩 8ffe起 906d都 907a銹 90dc靜 90f1響 91bf鼖 9244蔃 92af兙兛兝兞 92c8鍮 92d1瑹 "
    "9447浧 94ca禛 95d9邗 9644靝 96ed瀞 96fc嬨 9b76爁 9b78矗 9b7b纇 9bc6駖 9bde釔 9bec惞 9bf6澶 9c42輶 9c53侻 "
    "9c62營 9c68鄄 9c6b鷰 9c77菏 9cbc尐秣 9cd0婧 9d57輋 9d5a筑 9dc4拐 9ea9恢 9eef痹 9efd汊 9f60鬮 9f66鼗 "
    "9fcb僭 9fd8弌 a063蠏 a077拎 a0d5瑨 a0df煢 a0e4牐 a3c0␀␁␂␃␄␅␆␇␈␉␊␋␌␍␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟␡€ c6cf廴 c6d3无 "
    "c6d5癶 c6d7隶 c6de〃仝 fa5f倩 fa66偽 fabd包 fac5卄 fad5卿 fb48嘅 fbb8婷 fbf3幵 fbf9廐 fc4f彘 fc6c悤 "
    "fcb9撐 fce2晴 fcf1杞 fdb7沜渝 fdbb港 fdf1煮 fe52猪 fe6f瑜 feaa瓩 fedd砉"
)
"""What Python's Big5 lacks: a pair of bytes, and the characters of it and of those that follow it in the table."""
_BIG5_TWINS = {b"\xa2\x41": "∕", b"\xa2\x42": "﹨"}
"""Read by Python as characters for which there are other bytes too: told apart before it reads them."""
_BIG5_PAIR = re.compile(rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]")
_ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B]|\$\(D)")
_ROMAN = str.maketrans("\\~", "¥‾")
_HIGH = bytes(code | 0x80 if 0x20 < code < 0x7F else code for code in range(256))
CUT = ("incomplete", "unexpected end", "truncated")
LONGEST = 4
"""Bytes of the longest character."""


def _big5_gaps() -> dict[bytes, str]:
    gaps = {}
    for run in _BIG5_RUNS.split():
        pointer = (int(run[:2], 16) - 0x81) * 157 + (int(run[2:4], 16) - (0x40 if run[2:4] < "7f" else 0x62))
        for place, character in enumerate(run[4:], start=pointer):
            trail = place % 157
            gaps[bytes([place // 157 + 0x81, trail + (0x40 if trail < 63 else 0x62)])] = character
    return gaps


_GAPS = {"big5": _big5_gaps(), "gbk": {b"\x80": "€"}, "gb18030": {b"\x80": "€"}, "windows-1255": {b"\xca": "\u05ba"}}


def _spelt(label: re.Match[str]) -> str:
    return f"windows-{label[1]}" if label[1] else f"{label[2]}{label[3]}"


def encoding_named(label: str) -> str | None:
    """The encoding that a page means by a label: its name in the standard, or one beside it that ``decode_as`` knows."""
    label = label.strip("\t\n\f\r \"'").lower()
    if label in REFUSED_BY_THE_STANDARD:
        return REFUSED_BY_THE_STANDARD[label]
    if not label.isascii():
        return None
    if known := webencodings.lookup(label) or webencodings.lookup(MISSPELT.sub(_spelt, label)):
        return str(known.name)
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    if known := webencodings.lookup(STANDARD_NAMES.get(name, name.replace("_", "-"))):
        return str(known.name)
    return name if OF_PYTHON.fullmatch(name) and ASCII.decode(name, "replace") == ASCII.decode() else None


def decode_as(body: bytes, name: str, errors: Literal["strict", "replace"] = "strict") -> str:
    """Characters. ``replace``: U+FFFD or a control for what means nothing; ``strict``: UnicodeDecodeError, except for a
    last character that was cut off."""
    if name == REPLACEMENT:
        raise UnicodeDecodeError(name, body[:1], 0, len(body[:1]), "the standard has no decoder for this label")
    if name == "iso-2022-jp":
        return _iso_2022_jp(body, errors)
    if name == "x-user-defined":
        return str(webencodings.lookup(name).codec_info.decode(body, errors)[0])
    if name == "big5" and any(twin in body for twin in _BIG5_TWINS):
        return _big5_with_twins(body, errors)
    if name == "euc-jp":
        body = body.replace(b"\x8f\xa2\xb7", b"\xa1\xc1")  # the standard's two tildes are one character
    return _decode(body, name, errors)


def _decode(body: bytes, name: str, errors: str) -> str:
    mended = errors == "strict" or name in TWO_BYTES or name.startswith("windows-")
    text = body.decode(CODECS.get(name, name), _handler(name, errors) if mended else errors)
    exchanged = _EXCHANGED.get(name)
    if exchanged is None or text.isascii():
        return text
    text = text.translate(exchanged)
    if name == "shift_jis" and errors == "strict" and "\ufffd" in text:
        raise UnicodeDecodeError(name, body[:1], 0, 1, "a byte that begins no character")
    return text


@cache
def _handler(name: str, errors: str) -> str:
    """The name by which Python finds ``_mend`` for an encoding."""
    known_as = f"headwater.{name}.{errors}"
    codecs.register_error(known_as, partial(_mend, name, errors == "strict"))
    return known_as


def _mend(name: str, strict: bool, error: UnicodeError) -> tuple[str, int]:
    """What stands where Python's codec stopped, and where it goes on."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    data, start = error.object, error.start
    for size in (2, 1):
        if known := _GAPS.get(name, {}).get(data[start : start + size]):
            return known, min(start + size, len(data))
    if name == "euc-jp" and (known := _vendors_character(data[start : start + 2])):
        return known, start + 2
    if strict:
        if error.end == len(data) and error.reason.startswith(CUT) and len(data) - start < LONGEST:
            return "", len(data)
        raise error
    if name.startswith("windows-") and 0x80 <= data[start] < 0xA0:
        return chr(data[start]), start + 1
    # A lead byte takes the byte after it along, but never an ASCII character.
    with_next = name in TWO_BYTES and 0x80 < data[start] < 0xFF and data[start + 1 : start + 2] >= b"\x80"
    return "\ufffd", start + 2 if with_next else start + 1


def _vendors_character(pair: bytes) -> str | None:
    """NEC's and IBM's additions to JIS X 0208, which stand in Python's table of Shift_JIS only."""
    if len(pair) < 2 or not (0xA1 <= pair[0] <= 0xFE and 0xA1 <= pair[1] <= 0xFE):
        return None
    row, cell = pair[0] - 0xA1, pair[1] - 0xA1
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = row % 2 * 94 + cell
    try:
        return bytes([lead, trail + (0x40 if trail < 63 else 0x41)]).decode("cp932")
    except UnicodeDecodeError:
        return None


def _big5_with_twins(body: bytes, errors: str) -> str:
    pieces = []
    at = 0
    for match in _BIG5_PAIR.finditer(body):
        if twin := _BIG5_TWINS.get(match[0]):
            pieces += [_decode(body[at : match.start()], "big5", errors), twin]
            at = match.end()
    return "".join([*pieces, _decode(body[at:], "big5", errors)])


def _iso_2022_jp(body: bytes, errors: str) -> str:
    first, *switched = _ESCAPE.split(body)
    pieces = [first.decode("ascii", errors)]
    for escape, part in zip(switched[::2], switched[1::2], strict=True):
        line, newline, rest = part.partition(b"\n") if escape.startswith(b"$") else (part, b"", b"")
        if escape in (b"(B", b"(J"):
            text = line.decode("ascii", errors)
            pieces.append(text.translate(_ROMAN) if escape == b"(J" else text)
        elif escape == b"(I":
            pieces.append(_decode(line.translate(_HIGH), "shift_jis", errors))
        elif escape == b"$(D":
            pairs = (line[at : at + 2] for at in range(0, len(line), 2))
            pieces.append(_decode(b"".join(b"\x8f" + pair.translate(_HIGH) for pair in pairs), "euc-jp", errors))
        else:
            pieces.append(_decode(line.translate(_HIGH), "euc-jp", errors))
        pieces.append((newline + rest).decode("ascii", errors))  # a line ends in ASCII
    return "".join(pieces)
