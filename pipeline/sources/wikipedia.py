"""Wikipedia (any MediaWiki) from its XML dump, plain, bz2 or gzip, read as a stream; large multistream dumps in parts.

Articles are the pages of namespace 0 that are no redirects. The dump itself says what its language and its names for
files and categories are. A dump that ends early costs its tail, which is recorded; a page whose markup takes too long
costs that page.
"""

import bz2
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import quote, urlsplit
from xml.etree.ElementTree import Element, ParseError, iterparse

from infra.errors import InputError
from infra.execution.limits import DocumentLost, time_limit
from pipeline.document import Document, Origin, document_id
from pipeline.extract.clean import clean_line, clean_text
from pipeline.sources.contract import Archive, Outcome, Part, Reading, SourceConfig, lost
from pipeline.sources.files import open_archive
from pipeline.sources.multistream import Stream, is_multistream, read_streams
from pipeline.sources.warc import payload_digest
from pipeline.sources.wikitext import MEDIA_ALIASES, readable_text

MEDIA_NAMESPACES = frozenset({-2, 6, 14})
LICENSE = "CC-BY-SA-4.0"


@dataclass
class _Site:
    """What the dump says about itself."""

    base: str = ""
    language: str | None = None
    media: frozenset[str] = MEDIA_ALIASES
    pages: int = 0


def parts(config: SourceConfig, archives: list[Archive]) -> Iterable[Part]:
    """A dump whole, or in byte ranges of ``part_bytes`` where it is a large multistream file."""
    for archive in archives:
        step = config.part_bytes
        if archive.size <= step or not _in_streams(archive):
            yield Part(archive, 0, archive.size)
            continue
        for start in range(0, archive.size, step):
            yield Part(archive, start, min(start + step, archive.size))


def _in_streams(archive: Archive) -> bool:
    with open_archive(archive) as raw:
        return is_multistream(raw)


def read(part: Part, reading: Reading) -> Iterator[Outcome]:
    """All pages of a dump (or of the streams that begin in the part), as documents or with the reason why not."""
    if part.start == 0 and part.end == part.archive.size:
        yield from _read_whole(part, reading)
    else:
        yield from _read_streams(part, reading)


def _read_whole(part: Part, reading: Reading) -> Iterator[Outcome]:
    archive = part.archive
    site = _Site()
    with open_archive(archive) as raw:
        try:
            for page in _pages(_inflated(raw), site):
                yield _outcome(page, site, archive.name, reading)
        except (ParseError, EOFError, OSError, zlib.error) as error:
            if not site.pages:
                raise InputError(
                    "the file is empty" if not archive.size else "the file is not a MediaWiki dump",
                    where=archive.url,
                    remedy="Check the source's address and kind.",
                ) from error
            yield _lost_tail(reading.source.name, archive.name, site.pages, str(error))


def _read_streams(part: Part, reading: Reading) -> Iterator[Outcome]:
    archive, most = part.archive, reading.source.max_record_bytes
    with open_archive(archive) as raw:
        head, _, _ = next(read_streams(raw, 0, 1, most)).data.partition(b"<page>")
        for stream in read_streams(raw, part.start, part.end, most):
            place = f"{archive.name}@{stream.start}"
            # The first stream is the head itself, the last one the end tag alone.
            body = stream.data.partition(b"<page>")[2] if stream.start == 0 else stream.data
            body = (b"<page>" if stream.start == 0 and body else b"") + body.rstrip().removesuffix(b"</mediawiki>")
            if stream.damage:
                yield _lost_stream(reading.source.name, place, stream.damage)
            if not body.strip():
                continue
            site = _Site()
            try:
                for page in _pages(io.BytesIO(head + body + b"</mediawiki>"), site):
                    yield _outcome(page, site, archive.name, reading, stream)
            except ParseError as error:
                yield _lost_stream(reading.source.name, f"{place} after page {site.pages}", str(error))


def _lost_stream(source: str, place: str, why: str) -> Outcome:
    identity = document_id(source, "", place, "")
    return lost(identity, source, "failed", "damaged_stream", detail=f"{place}: {why[:150]}")


def _inflated(raw: BinaryIO) -> BinaryIO:
    head = raw.read(3)
    raw.seek(0)
    if head == b"BZh":
        return cast(BinaryIO, bz2.open(raw))
    return cast(BinaryIO, gzip.open(raw)) if head[:2] == b"\x1f\x8b" else raw


def _lost_tail(source: str, archive: str, pages: int, why: str) -> Outcome:
    identity = document_id(source, "", f"{archive}@after-page-{pages}", "")
    return lost(identity, source, "failed", "truncated_dump", detail=f"{archive} after page {pages}: {why[:150]}")


def _pages(stream: BinaryIO, site: _Site) -> Iterator[Element]:
    """Page elements with bare tag names. The tree is emptied behind the reader, so memory stays at one page."""
    top: Element | None = None
    for event, element in iterparse(stream, ("start", "end")):
        if top is None:
            top = element
        if event == "start":
            continue
        element.tag = element.tag.rpartition("}")[2]
        if element.tag == "siteinfo":
            _describe(site, element, top)
        elif element.tag == "page":
            site.pages += 1
            yield element
            top.clear()
    if not site.pages:
        raise ParseError("no page")


def _describe(site: _Site, info: Element, top: Element) -> None:
    base = info.findtext("base", "")
    site.base = base.rpartition("/")[0] + "/" if base else ""
    host = urlsplit(base).hostname or ""
    language = top.get("{http://www.w3.org/XML/1998/namespace}lang") or host.split(".", 1)[0]
    site.language = language or None
    names = {
        (space.text or "").strip().lower()
        for space in info.iter("namespace")
        if space.get("key", "").lstrip("-").isdigit() and int(space.get("key", "0")) in MEDIA_NAMESPACES
    }
    site.media = MEDIA_ALIASES | (names - {""})


def _outcome(page: Element, site: _Site, archive: str, reading: Reading, stream: Stream | None = None) -> Outcome:
    """``stream`` is the one that holds the page: its bytes are the page's place. Otherwise it is the page's number."""
    source = reading.source
    title = clean_line(page.findtext("title", ""))
    revision = page.find("revision")
    markup = (revision.findtext("text") if revision is not None else None) or ""
    page_id = page.findtext("id", "")
    record_id = f"page {page_id} revision {revision.findtext('id', '') if revision is not None else ''}"
    url = f"{site.base}{quote(title.replace(' ', '_'), safe='/:,;@!$()*~')}" if site.base and title else None
    digest = payload_digest(markup.encode())
    identity = document_id(source.name, url or title, record_id, digest)

    namespace = page.findtext("ns", "0")
    if namespace != "0":
        return lost(identity, source.name, "dropped", "namespace", url=url, detail=f"namespace {namespace}")
    redirect = page.find("redirect")
    if redirect is not None or markup[:12].lstrip().lower().startswith("#redirect"):
        target = redirect.get("title", "") if redirect is not None else ""
        return lost(identity, source.name, "dropped", "redirect", url=url, detail=f"to {target}" if target else None)
    if len(markup) > source.max_record_bytes:
        return lost(identity, source.name, "dropped", "record_too_large", url=url, score=float(len(markup)))
    place = f"{archive}, {record_id}"
    try:
        with time_limit(reading.extract.seconds, document=identity.hex()):
            text = clean_text(readable_text(markup, site.media))
    except DocumentLost as lost_page:
        return lost(identity, source.name, "failed", f"extraction_{lost_page.rule}", url=url, detail=place)
    except Exception as error:
        detail = f"{place}: {type(error).__name__}: {str(error)[:100]}"
        return lost(identity, source.name, "failed", "extraction_error", url=url, detail=detail)
    if not text:
        return lost(identity, source.name, "dropped", "no_text", url=url, score=0.0, threshold=1.0)
    return Document(
        id=identity,
        text=text,
        source=source.name,
        url=url,
        title=title or None,
        language=source.language or site.language,
        license=source.license or LICENSE,
        date=revision.findtext("timestamp") if revision is not None else None,
        origin=Origin(
            archive=archive,
            offset=stream.start if stream else site.pages - 1,
            length=stream.end - stream.start if stream else 1,
            record_id=record_id,
            digest=digest,
        ),
    )
