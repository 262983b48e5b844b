"""Wikipedia (any MediaWiki) from its XML dump, plain or compressed, read as a stream; large multistream dumps in parts.

Articles are the pages of namespace 0 that are no redirects; of a page's revisions the newest. The dump itself says what its
language and its names for files and categories are. A dump that ends early costs its tail, which is recorded; a page that
is no XML, or whose markup takes too long, costs that page.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal
from urllib.parse import quote
from xml.etree.ElementTree import Element

from infra.errors import InputError
from infra.execution.limits import DocumentLost, time_limit
from pipeline.compression import Lost, pieces
from pipeline.document import Document, Origin, document_id
from pipeline.extract.clean import clean_line, clean_text
from pipeline.profiles import Profile
from pipeline.sources.contract import (
    Archive,
    Outcome,
    Part,
    PartBytes,
    Reading,
    RecordLimit,
    Salvage,
    byte_ranges,
    damaged,
    lost,
)
from pipeline.sources.files import open_archive
from pipeline.sources.headers import payload_digest
from pipeline.sources.mediawiki_xml import BadPage, DumpCut, NoDump, Site, pages
from pipeline.sources.multistream import Stream, is_multistream, read_streams
from pipeline.sources.wikitext import readable_text
from pipeline.sources.wikitext.names import REDIRECT_WORDS

LICENSE = "CC-BY-SA-4.0"
WIKITEXT_MODELS = frozenset({"", "wikitext", "proofread-page"})
_REDIRECT = re.compile(r"\s*#(\w[\w .]{1,30})\s*:?\s*\[\[")


class WikipediaSource(RecordLimit, Salvage, PartBytes):
    """XML dumps of Wikipedia, or any MediaWiki."""

    kind: Literal["wikipedia"]
    profile: Profile = Profile.ENCYCLOPEDIA


def parts(config: WikipediaSource, archives: list[Archive]) -> Iterable[Part]:
    """A dump whole, or in byte ranges where it is a large multistream file."""
    return byte_ranges(config, archives, in_streams)


def in_streams(archive: Archive) -> bool:
    """Whether parts of a dump can be read by themselves."""
    with open_archive(archive) as raw:
        return is_multistream(raw)


def read(part: Part, reading: Reading[WikipediaSource]) -> Iterator[Outcome]:
    """All pages of a dump (or of the streams that begin in the part), as documents or with the reason why not."""
    if part.start == 0 and part.end == part.archive.size:
        yield from _read_whole(part, reading)
    else:
        yield from _read_streams(part, reading)


def _read_whole(part: Part, reading: Reading[WikipediaSource]) -> Iterator[Outcome]:
    archive, source = part.archive, reading.source
    site = Site()
    with open_archive(archive) as raw:
        try:
            for page in pages(pieces(raw, salvage=source.salvage), site, source.max_record_bytes):
                if isinstance(page, Lost):
                    rule = "truncated_dump" if page.why.endswith("ends early") else "damaged_stream"
                    yield damaged(source.name, archive.name, rule, page.start, page.end - page.start, page.why)
                elif isinstance(page, BadPage):
                    yield _lost_page(source.name, archive.name, site.pages, page)
                else:
                    yield _outcome(page, site, archive.name, reading)
        except NoDump as error:
            raise InputError(
                "the file is empty" if not archive.size else "the file is not a MediaWiki dump",
                where=archive.url,
                remedy="Check the source's address and kind.",
            ) from error
        except DumpCut as error:
            yield _lost_tail(source.name, archive.name, site.pages, str(error))
    reading.unseen["older revisions"] += site.older_revisions


def _read_streams(part: Part, reading: Reading[WikipediaSource]) -> Iterator[Outcome]:
    archive, most = part.archive, reading.source.max_record_bytes
    older = 0
    with open_archive(archive) as raw:
        head, _, _ = next(read_streams(raw, 0, 1, most)).data.partition(b"<page>")
        for stream in read_streams(raw, part.start, part.end, most):
            place = f"{archive.name}@{stream.start}"
            # The first stream is the head itself, the last one the end tag alone.
            body = stream.data.partition(b"<page>")[2] if stream.start == 0 else stream.data
            body = (b"<page>" if stream.start == 0 and body else b"") + body.rstrip().removesuffix(b"</mediawiki>")
            if stream.damage:
                yield _lost_stream(reading.source.name, archive.name, stream, stream.damage)
            if not body.strip():
                continue
            site = Site()
            try:
                for page in pages([head, body, b"</mediawiki>"], site, most):
                    if isinstance(page, Element):
                        yield _outcome(page, site, archive.name, reading, stream)
                    elif isinstance(page, BadPage):
                        yield _lost_page(reading.source.name, place, site.pages, page)
            except (DumpCut, NoDump) as error:
                why = f"after page {site.pages} of the stream: {error}"
                yield _lost_stream(reading.source.name, archive.name, stream, why)
            older += site.older_revisions
    reading.unseen["older revisions"] += older


def _lost_page(source: str, place: str, number: int, page: BadPage) -> Outcome:
    """``number`` pages before it were read."""
    identity = document_id(source, "", f"{place}@after-page-{number}", page.why)
    detail = f"{place} after page {number}: {page.why[:150]}"
    if page.too_large:
        return lost(identity, source, "dropped", "record_too_large", detail=detail)
    return lost(identity, source, "failed", "damaged_page", detail=detail)


def _lost_stream(source: str, archive: str, stream: Stream, why: str) -> Outcome:
    return damaged(source, archive, "damaged_stream", stream.start, stream.end - stream.start, why)


def _lost_tail(source: str, archive: str, pages: int, why: str) -> Outcome:
    identity = document_id(source, "", f"{archive}@after-page-{pages}", "")
    return lost(identity, source, "failed", "truncated_dump", detail=f"{archive} after page {pages}: {why[:150]}")


def _outcome(
    page: Element, site: Site, archive: str, reading: Reading[WikipediaSource], stream: Stream | None = None
) -> Outcome:
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
    model = (revision.findtext("model", "") if revision is not None else "").strip()
    if model not in WIKITEXT_MODELS:
        return lost(identity, source.name, "dropped", "content_model", url=url, detail=f"the page is {model[:80]}")
    redirect = page.find("redirect")
    if redirect is not None or _is_redirect(markup):
        target = redirect.get("title", "") if redirect is not None else ""
        return lost(identity, source.name, "dropped", "redirect", url=url, detail=f"to {target}" if target else None)
    if len(markup) > source.max_record_bytes:
        return lost(identity, source.name, "dropped", "record_too_large", url=url, score=float(len(markup)))
    place = f"{archive}, {record_id}"
    try:
        with time_limit(reading.extract.seconds, document=identity.hex()):
            text = readable_text(markup, site.wiki, title, reading.unseen, clean_text)
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
        language=source.language or site.wiki.language,
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


def _is_redirect(markup: str) -> bool:
    """Dumps of old versions do not mark redirects."""
    found = _REDIRECT.match(markup)
    return found is not None and found[1].strip().lower() in REDIRECT_WORDS
