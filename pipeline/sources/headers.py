"""Header fields of WARC records and HTTP messages, in every form that archives hold.

Names and media types in any case, lines that end in LF alone, values that go on in the next line (folded), spaces before the
colon, a field given several times. Bytes are UTF-8 where they can be, else Latin-1.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

HEAD_END = re.compile(rb"\r?\n\r?\n")
FOLD = re.compile(rb"\r?\n[ \t]+")
STATUS = re.compile(rb"HTTP(?:/\d+(?:\.\d+)?)?[ \t]+(\d{3})(?!\d)", re.I)
BEGINS_HTTP = re.compile(rb"[\r\n]{0,8}HTTP(?:/\d+(?:\.\d+)?)?[ \t]+\d", re.I)
NEXT_TYPE = re.compile(r",(?=\s*[\w.+*-]+/)")
CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.I)
ESSENCE = re.compile(r"""[\s"';]*([\w.+*-]+/[\w.+*-]+)""")
MAX_INTERIM = 5

Fields = dict[str, list[str]]


@dataclass(frozen=True)
class HttpMessage:
    """An HTTP response: its status, its header fields, and where in the block its body begins."""

    status: int
    fields: Fields
    body: int

    def value(self, name: str) -> str:
        """All values of a field, as one list."""
        return ", ".join(self.fields.get(name, ()))


def head_size(data: bytes) -> int:
    """Bytes up to and with the empty line; all of them where there is none."""
    end = HEAD_END.search(data)
    return end.end() if end else len(data)


def read_fields(head: bytes) -> Fields:
    """Names in lower case, each with its values in order. What is no field is passed over."""
    found: Fields = {}
    for line in FOLD.sub(b" ", head).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(_text(name).lower(), []).append(_text(value))
    return found


def first(fields: Fields, name: str) -> str:
    return fields.get(name, [""])[0]


def begins_http(block: bytes) -> bool:
    return bool(BEGINS_HTTP.match(block))


def read_message(block: bytes) -> HttpMessage | None:
    """The final response of a block (100 Continue and the like come before it); None where there is no status line."""
    start = 0
    for _ in range(MAX_INTERIM):
        start += len(block[start : start + 8]) - len(block[start : start + 8].lstrip(b"\r\n"))
        status = STATUS.match(block, start)
        if not status:
            return None
        end = HEAD_END.search(block, status.end() - 1)
        body = end.end() if end else len(block)
        if 100 <= int(status[1]) < 200 and STATUS.match(block, body):
            start = body
            continue
        return HttpMessage(int(status[1]), read_fields(block[status.end() : body]), body)
    return None


def media_type(values: list[str]) -> tuple[str, str]:
    """Type (in lower case, without parameters) and charset. Of several types the last is meant, as browsers have it."""
    essence = charset = ""
    for value in (part for whole in values for part in NEXT_TYPE.split(whole)):
        known, label = ESSENCE.match(value), CHARSET.search(value)
        if known and known[1] != "*/*":
            charset = "" if known[1].lower() != essence else charset
            essence = known[1].lower()
        charset = label[1] if label else charset
    return essence, charset


def payload_digest(payload: bytes) -> str:
    """``sha1:`` and base 32, as crawlers write it."""
    return "sha1:" + base64.b32encode(hashlib.sha1(payload, usedforsecurity=False).digest()).decode()


def digest_matches(declared: str, contents: list[bytes]) -> bool | None:
    """Whether one of the contents has the digest (``sha1:BASE32`` or hexadecimal); None where none is declared."""
    algorithm, _, expected = declared.strip().lower().partition(":")
    if algorithm not in ("sha1", "sha256", "md5") or not expected:
        return None
    for content in contents:
        found = hashlib.new(algorithm, content, usedforsecurity=False)
        if expected.rstrip("=") in (found.hexdigest(), base64.b32encode(found.digest()).decode().lower().rstrip("=")):
            return True
    return False


def _text(data: bytes) -> str:
    try:
        return data.strip().decode()
    except UnicodeDecodeError:
        return data.strip().decode("latin-1")
