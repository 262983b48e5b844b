"""Archives made by hand, and reading a source in one call."""

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.document import Document
from pipeline.extract.page import ExtractConfig
from pipeline.ledger import Fate
from pipeline.sources.contract import Outcome, Part, Reading, is_fate
from pipeline.sources.files import find_archives
from pipeline.sources.registry import SOURCES
from tests.support import source_config

PROSE = (
    "The river begins in the hills above the town and runs for two hundred miles before it meets the sea. "
    "Mills were built along its banks in the eighteenth century, and most of them can still be visited today. "
)


def html_page(title: str = "A page", text: str = PROSE * 3) -> bytes:
    paragraphs = "".join(f"<p>{text}</p>" for _ in range(2))
    page = (
        f"<html><head><title>{title}</title></head><body><article><h1>{title}</h1>{paragraphs}</article></body></html>"
    )
    return page.encode()


def warc_record(
    url: str = "http://example.org/",
    body: bytes | None = None,
    *,
    kind: str = "response",
    status: str = "200 OK",
    http: Iterable[tuple[str, str]] = (("Content-Type", "text/html; charset=utf-8"),),
    extra: Iterable[tuple[str, str]] = (),
) -> bytes:
    payload = html_page() if body is None else body
    head = "".join(f"{name}: {value}\r\n" for name, value in http)
    block = f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + payload if kind in ("response", "revisit") else payload
    content_type = "application/http; msgtype=response" if kind in ("response", "revisit") else "text/plain"
    headers = [
        ("WARC-Type", kind),
        ("WARC-Record-ID", f"<urn:test:{kind}:{url}>"),
        ("WARC-Date", "2024-05-06T07:08:09Z"),
        ("WARC-Target-URI", url),
        ("Content-Type", content_type),
        *extra,
        ("Content-Length", str(len(block))),
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"


def numbered_records(count: int) -> list[bytes]:
    return [
        warc_record(f"http://example.org/{n}", html_page(f"Page {n}", f"Number {n}. {PROSE * 3}")) for n in range(count)
    ]


def gzip_members(records: Iterable[bytes]) -> list[bytes]:
    return [gzip.compress(record, mtime=0) for record in records]


def read_source(path: Path, kind: str = "warc", extract: ExtractConfig | None = None, **options: Any) -> list[Outcome]:
    """All outcomes of a source, part by part."""
    source = source_config(name="test", kind=kind, address=str(path), **options)
    spec = SOURCES[source.kind]
    archives = find_archives(source.address, {}, folders=kind == "code") if spec.listed else []
    reading = Reading(source, extract or ExtractConfig())
    parts: list[Part] = [Part.from_json(part.to_json()) for part in spec.parts(source, archives)]
    return [outcome for part in parts for outcome in spec.read(part, reading)]


def documents(outcomes: Iterable[Outcome]) -> list[Document]:
    return [outcome for outcome in outcomes if not is_fate(outcome)]


def fates(outcomes: Iterable[Outcome]) -> list[Fate]:
    return [outcome for outcome in outcomes if is_fate(outcome)]


def rules(outcomes: Iterable[Outcome]) -> list[str]:
    return sorted(fate["rule"] for fate in fates(outcomes))
