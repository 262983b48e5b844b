"""Crawl archives: WARC, WET and ARC files become documents.

``records.py`` cuts the file into records, ``headers.py`` reads their header fields, ``pipeline.extract`` makes text of a
response. A record that could have become a document and does not is in the ledger with the place of its bytes.
``request``, ``metadata`` and ``warcinfo`` records describe others and are passed over; a ``revisit`` only points to a
payload stored elsewhere and is dropped as such; ``conversion`` records (WET) hold text already. A damaged record whose own
digest proves its block is read as if nothing had been.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from infra.config import Execution
from infra.errors import InputError
from pipeline.compression import foreign_format
from pipeline.document import Document, Origin, document_id
from pipeline.extract.page import Extracted, Page, PageExtractor
from pipeline.extract.refusal import Refused
from pipeline.ledger import Fate, Verdict
from pipeline.profiles import Profile
from pipeline.sources.contract import (
    Archive,
    Outcome,
    Part,
    PartBytes,
    Reading,
    RecordLimit,
    Salvage,
    SourceConfig,
    byte_ranges,
    lost,
)
from pipeline.sources.files import open_archive
from pipeline.sources.headers import (
    Fields,
    HttpMessage,
    begins_http,
    digest_matches,
    first,
    head_size,
    media_type,
    payload_digest,
    read_fields,
    read_message,
)
from pipeline.sources.records import ARC_LINE, Damage, NotAnArchive, RawRecord, can_start_within, read_records

DOCUMENT_TYPES = frozenset({"response", "resource", "conversion", "revisit"})
LOOK_BYTES = 512
DAMAGE_RULES: dict[Damage, str] = {
    "truncated": "truncated_record",
    "corrupt": "corrupt_record",
    "too_large": "record_too_large",
}


class CrawlOptions(RecordLimit, Salvage):
    """Sources whose archives hold what a crawler fetched."""

    profile: Profile = Profile.WEB
    cache: Annotated[str, Execution()] = Field(
        default="", description="Folder that keeps archives fetched by HTTP; empty: none."
    )


class WarcSource(CrawlOptions, PartBytes):
    """WARC, ARC and WET files."""

    kind: Literal["warc", "wet"]


@dataclass(frozen=True)
class _Record:
    """A record that could become a document: what its headers say and where it lies."""

    kind: str
    page: Page
    origin: Origin
    refers_to: str


def parts(config: WarcSource, archives: list[Archive]) -> Iterable[Part]:
    """Compressed archives in byte ranges; others whole (they can only be cut from their start)."""
    return byte_ranges(config, archives, lambda archive: can_start_within(open_archive(archive)))


def read(part: Part, reading: Reading[CrawlOptions]) -> Iterator[Outcome]:
    """The documents of one part, and the fate of every other response in it."""
    with open_archive(part.archive, reading.source.cache) as stream:
        yield from read_stream(stream, part, reading)


def read_stream(stream: BinaryIO, part: Part, reading: Reading[CrawlOptions], shift: int = 0) -> Iterator[Outcome]:
    """As ``read``, of an open stream that begins ``shift`` bytes into the archive."""
    pages = PageExtractor.create(reading.extract, reading.language_model)
    archive, source = part.archive, reading.source
    try:
        size = stream.seek(0, io.SEEK_END)
        end = min(part.end, size) if part.end else size
        for raw in read_records(stream, part.start, end, source.max_record_bytes, salvage=source.salvage):
            outcome = _outcome(replace(raw, offset=raw.offset + shift), archive.name, source, pages)
            if outcome is not None:
                yield outcome
    except NotAnArchive:
        stream.seek(0)
        kind = foreign_format(stream.read(LOOK_BYTES))
        raise InputError(
            f"the file is not a WARC or ARC archive{f': it is {kind}' if kind else ''}"
            if size
            else "the file is empty",
            where=archive.url,
            remedy="Check the source's address and kind.",
        ) from None
    except OSError as error:
        raise InputError(f"the archive cannot be read: {error}", where=archive.url) from error


def _outcome(raw: RawRecord, archive: str, source: CrawlOptions, pages: PageExtractor) -> Outcome | None:
    place = f"{archive} bytes {raw.offset}+{raw.length}"
    if raw.damage and not _proven(raw):
        return _damaged(raw, archive, source, place)
    try:
        record = _parse(raw, archive, source.name)
    except (ValueError, LookupError) as error:
        identity = document_id(source.name, "", f"{archive}@{raw.offset}", "")
        detail = f"{place}: {str(error)[:150] or 'no record found'}"
        return lost(identity, source.name, "failed", "unreadable_record", detail=detail)
    if record is None:
        return None
    try:
        extracted = _text(record, pages)
    except Refused as refused:
        return _refusal(record, refused, source.name, place)
    return _document(record, extracted, source)


def _damaged(raw: RawRecord, archive: str, source: CrawlOptions, place: str) -> Fate:
    """Records of which not even the header is certain all count: each may have been a page."""
    identity = document_id(source.name, "", f"{archive}@{raw.offset}", "")
    verdict: Verdict = "dropped" if raw.damage == "too_large" else "failed"
    threshold = float(source.max_record_bytes) if raw.damage == "too_large" else None
    url = _url_of_head(raw.data)
    return lost(identity, source.name, verdict, DAMAGE_RULES[raw.damage], url=url, detail=place, threshold=threshold)


def _proven(raw: RawRecord) -> bool:
    """Whether the record's own digest vouches for what damage left of it."""
    if raw.damage == "too_large" or not raw.data.startswith(b"WARC/"):
        return False
    header = head_size(raw.data)
    return _digest_matches(raw.data[header:], first(read_fields(raw.data[:header]), "warc-block-digest")) is True


def _url_of_head(data: bytes) -> str | None:
    if arc := ARC_LINE.match(data):
        return arc["url"].decode("utf-8", "replace")
    return first(read_fields(data[: head_size(data)]), "warc-target-uri").strip("<> \t") or None


def _refusal(record: _Record, refused: Refused, source: str, place: str) -> Fate:
    detail = f"{place}: {refused.detail}" if refused.verdict == "failed" else refused.detail
    return lost(
        record.page.id,
        source,
        refused.verdict,
        refused.rule,
        url=record.page.url,
        detail=detail,
        score=refused.score,
        threshold=refused.threshold,
        survivor_id=refused.survivor,
    )


def _document(record: _Record, extracted: Extracted, source: SourceConfig) -> Document:
    return Document(
        id=record.page.id,
        text=extracted.text,
        source=source.name,
        url=record.page.url or None,
        title=extracted.title,
        language=source.language,
        license=extracted.metadata.license or source.license,
        author=extracted.metadata.author,
        date=extracted.metadata.date or record.page.captured or None,
        captured=record.page.captured or None,
        origin=record.origin,
    )


def _text(record: _Record, pages: PageExtractor) -> Extracted:
    if record.kind == "revisit":
        raise Refused("dropped", "revisit", f"the payload is stored with {record.refers_to or 'another capture'}")
    if record.kind == "conversion" and record.page.content_type in ("", "text/plain"):
        return pages.stored_text(record.page)
    return pages.extract(record.page)


def parse_stored(raw: RawRecord, archive: str) -> tuple[Page, str] | None:
    """What any record holds that could become a document, with its payload's digest; None for other records. Raises
    ValueError if unreadable."""
    record = _parse(raw, archive, "")
    return (record.page, record.origin["digest"]) if record else None


def _parse(raw: RawRecord, archive: str, source: str) -> _Record | None:
    """None for records that are no documents. Raises ValueError for what cannot be read."""
    data = _as_warc(raw.data)
    if data is None:
        return None
    size = head_size(data)
    fields, block = read_fields(data[:size]), data[size:]
    kind = first(fields, "warc-type").lower()
    if not kind:
        raise ValueError("the record does not say its type")
    if kind not in DOCUMENT_TYPES:
        return None
    if not raw.checked and _digest_matches(block, first(fields, "warc-block-digest")) is False:
        raise ValueError("the block's digest does not match")
    url = first(fields, "warc-target-uri").strip("<> \t")
    message = _message(kind, fields, block)
    if message is None and kind == "response" and not url.lower().startswith("http"):
        return None  # dns: and ftp: exchanges
    if first(fields, "warc-segment-number"):
        raise ValueError("the record is one segment of several")
    payload = block[message.body :] if message else block
    if message and raw.doubtful:
        _check_length(message, payload)
    http = message.fields if message else {}
    record_id = first(fields, "warc-record-id").strip("<> \t") or f"{archive}@{raw.offset}"
    digest = payload_digest(payload)
    content_type, charset = media_type(http.get("content-type", []) if message else fields.get("content-type", []))
    page = Page(
        id=document_id(source, url, record_id, digest),
        url=url,
        body=payload,
        status=message.status if message else 200,
        content_type=content_type,
        charset=charset,
        content_encoding=message.value("content-encoding") if message else "",
        transfer_encoding=message.value("transfer-encoding") if message else "",
        captured=first(fields, "warc-date"),
    )
    origin = Origin(archive=archive, offset=raw.offset, length=raw.length, record_id=record_id, digest=digest)
    return _Record(kind, page, origin, first(fields, "warc-refers-to-target-uri") or first(fields, "warc-refers-to"))


def _message(kind: str, fields: Fields, block: bytes) -> HttpMessage | None:
    """The HTTP message in a block: declared as one, or beginning like one where a response is stored."""
    declared = any(value.lower().startswith("application/http") for value in fields.get("content-type", []))
    if not declared and not (kind in ("response", "revisit") and begins_http(block)):
        return None
    message = read_message(block)
    if message is None:
        raise ValueError("no HTTP status line")
    return message


def _check_length(message: HttpMessage, payload: bytes) -> None:
    """No record follows where this one's length says: it may be too short."""
    promised = first(message.fields, "content-length")
    if promised.isdecimal() and int(promised) > len(payload):
        raise ValueError(f"the record has {len(payload)} of its {promised} bytes")


def _digest_matches(block: bytes, declared: str) -> bool | None:
    """In an uncompressed file the block digest is the only witness against damage.

    Some crawls (ClueWeb) wrote the payload's digest in its place: either will do.
    """
    return digest_matches(declared, [block, block[head_size(block) :]]) if declared else None


def _as_warc(data: bytes) -> bytes | None:
    """An ARC record in the clothes of a WARC record; a WARC record as it is; None for an ARC's own description."""
    arc = ARC_LINE.match(data)
    if not arc:
        return data
    if arc["url"].startswith(b"filedesc:"):
        return None
    block = data[arc.end() :]
    is_http = block[:5] == b"HTTP/"
    stamp = arc["date"].decode()[:14].ljust(14, "0")
    date = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[8:10]}:{stamp[10:12]}:{stamp[12:14]}Z"
    content_type = b"application/http; msgtype=response" if is_http else arc["type"]
    lines = [
        b"WARC/1.0",
        b"WARC-Type: response",
        b"WARC-Target-URI: " + arc["url"],
        b"WARC-Date: " + date.encode(),
        b"Content-Type: " + content_type,
        b"Content-Length: " + str(len(block)).encode(),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + block
