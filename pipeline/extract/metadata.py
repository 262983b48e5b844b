"""What a page says of itself: who wrote it, when it was published, under which licence.

Only what is marked as such counts, the most explicit marks first:

    JSON-LD         schema.org's author, datePublished, license
    meta elements   HTML's author, Open Graph's article:*, Dublin Core, Highwire's citation_* and a few of large publishers
    the body        microdata, microformats, time elements, rel=author and rel=license

Nothing is guessed from the text or the address, so that a value, where there is one, is the page's own. All of it is read
by searching bytes, in some hundred microseconds a page, and within bounds: a page may try to be expensive.
"""

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.extract.clean import clean_line
from pipeline.extract.dates import iso_date
from pipeline.extract.json_ld import MAX_AUTHORS, read_json_ld
from pipeline.extract.license_link import declared_license

# From the most to the least certain to be the date of publication. Colons, which some write for dots, are dots here.
DATE_NAMES = (
    "article.published_time", "og.article.published_time", "datepublished", "citation_publication_date", "citation_date",
    "citation_online_date", "dc.date.issued", "dcterms.issued", "dcterms.date", "dc.date", "dc.date.created", "dcterms.created",
    "parsely-pub-date", "sailthru.date", "article.published", "cxenseparse.recs.publishtime", "publication_date", "publish_date",
    "publish-date", "pubdate", "publishdate", "published_time", "date.created", "date",
)  # fmt: skip
AUTHOR_NAMES = (
    "citation_author", "dc.creator", "dcterms.creator", "parsely-author", "sailthru.author", "article.author", "author", "byl",
)  # fmt: skip
LICENSE_NAMES = ("dcterms.license", "dc.rights", "dcterms.rights", "dc.rights.uri", "rights")
MEANT = frozenset(name.encode() for name in (*DATE_NAMES, *AUTHOR_NAMES, *LICENSE_NAMES))
META_NAME = re.compile(
    rb"""\b(?:property|name|itemprop)\s{0,9}=\s{0,9}["']?\s{0,9}([a-z][a-z0-9:_.-]{0,60})(?=["'\s/>])"""
)

PAGE_BYTES = 2_000_000
HEAD_BYTES = 400_000
MAX_TAGS = 256
TAG_BYTES = 4_096
ELEMENT_BYTES = 800
ATTRIBUTE = re.compile(
    rb"""(?<![a-z0-9:_.-])([a-z][a-z0-9:_.-]{0,40}+)(?:\s{0,9}+=\s{0,9}+("[^"]*"|'[^']*'|[^\s"'>]++))?|[<>]""",
    re.IGNORECASE,
)
TAGS = re.compile(r"<[^>]{0,500}>")
NAME_PART = re.compile(rb"""itemprop=["']?name\b""")
# Accounts that software comes with, and what templates leave behind.
NOBODY = frozenset(
    ["admin", "administrator", "webmaster", "root", "user", "guest", "author", "editor", "anonymous", "unknown", "none"]
)
LONGEST_NAME = 120


@dataclass(frozen=True)
class Metadata:
    """``author``: names with "; " between them. ``date``: ISO 8601. ``license``: SPDX."""

    author: str | None = None
    date: str | None = None
    license: str | None = None


NOTHING_DECLARED = Metadata()


def page_metadata(text: str, data: bytes, pruned: bytes, captured: str = "") -> Metadata:
    """The page as text, as its UTF-8 bytes, and without scripts and menus; a date after ``captured`` cannot be true."""
    stated = read_json_ld(data[:PAGE_BYTES])
    metas = _metas(data[:HEAD_BYTES])
    body = pruned[:PAGE_BYTES]
    lowered = body.lower()
    author = (
        _authors(stated.authors)
        or _first_author(metas)
        or _authors(_authors_in_body(body, lowered))
        or _authors(stated.publishers)
    )
    date = iso_date(stated.date, captured) or _first_date(metas, captured) or _date_in_body(body, lowered, captured)
    rights = [stated.license, *(value for name in LICENSE_NAMES for value in metas.get(name, ()))]
    return Metadata(author, date, declared_license(text, rights))


# ---- meta elements --------------------------------------------------------------------------------------------------


def _metas(data: bytes) -> dict[str, list[str]]:
    """Contents of the meta elements that matter here, by name in lower case."""
    found: dict[str, list[str]] = {}
    head = data[: _beginning_of_body(data)].lower()
    for start in _occurrences(head, b"<meta"):
        end = head.find(b">", start, start + TAG_BYTES) + 1
        match = META_NAME.search(head, start, end)
        name = match[1].replace(b":", b".") if match else b""
        if name in MEANT and (content := _attributes(data, start).get("content", "").strip()):
            found.setdefault(name.decode(), []).append(content)
    return found


def _beginning_of_body(data: bytes) -> int:
    found = data.find(b"<body")
    return found if found >= 0 else len(data)


def _first_author(metas: dict[str, list[str]]) -> str | None:
    return next((known for name in AUTHOR_NAMES if (known := _authors(metas.get(name, ())))), None)


def _first_date(metas: dict[str, list[str]], captured: str) -> str | None:
    values = (value for name in DATE_NAMES for value in metas.get(name, ()))
    return next((date for value in values if (date := iso_date(value, captured))), None)


def _attributes(data: bytes, start: int) -> dict[str, str]:
    """Attributes of the tag that begins at ``start``: names in lower case, the first of each counts."""
    found: dict[str, str] = {}
    for match in ATTRIBUTE.finditer(data, start + 1, start + TAG_BYTES):
        if match[1] is None:
            break
        value = match[2] or b""
        value = value[1:-1] if value[:1] in (b'"', b"'") else value
        found.setdefault(match[1].decode().lower(), html.unescape(value.decode("utf-8", "replace")))
    return found


# ---- marks in the body ----------------------------------------------------------------------------------------------

DATE_WORDS = frozenset({"datepublished", "published", "dt-published", "entry-date"})


def _date_in_body(data: bytes, lowered: bytes, captured: str) -> str | None:
    """A marked element's date; else that of the time elements, if all say the same."""
    days: dict[str, str] = {}
    for start in _occurrences(lowered, b"<time"):
        attributes = _attributes(data, start)
        date = next((date for value in _values(attributes) if (date := iso_date(value, captured))), None)
        if date and ("pubdate" in attributes or DATE_WORDS & _words(attributes)):
            return date
        if date:
            days.setdefault(date[:10], date)
    for start in _tags_with(lowered, b"published"):
        attributes = _attributes(data, start)
        if DATE_WORDS & _words(attributes):
            for value in (*_values(attributes), _inner_text(data, lowered, start)):
                if date := iso_date(value, captured):
                    return date
    return next(iter(days.values())) if len(days) == 1 else None


def _words(attributes: dict[str, str]) -> set[str]:
    return set(f"{attributes.get('itemprop', '')} {attributes.get('class', '')}".lower().split())


def _values(attributes: dict[str, str]) -> Iterator[str]:
    for name in ("content", "datetime", "title"):
        if name in attributes:
            yield attributes[name]


def _authors_in_body(data: bytes, lowered: bytes) -> list[str]:
    for start in _tags_with(lowered, b"author"):
        attributes = _attributes(data, start)
        words = _words(attributes)
        marked = "author" in f"{attributes.get('rel', '')} {attributes.get('itemprop', '')}".lower().split()
        if (marked or "p-author" in words or {"author", "vcard"} <= words) and (
            name := _author_at(data, lowered, start)
        ):
            return [name]
    return []


def _author_at(data: bytes, lowered: bytes, start: int) -> str:
    """The name in an element that is marked as the author: the part marked as a name, or all its text."""
    end = lowered.find(b">", start, start + TAG_BYTES)
    if end >= 0 and (part := NAME_PART.search(lowered, end, end + ELEMENT_BYTES)):
        start = max(start, lowered.rfind(b"<", end, part.start()))
    return _attributes(data, start).get("content") or _inner_text(data, lowered, start)


def _inner_text(data: bytes, lowered: bytes, start: int) -> str:
    """Text of the element whose tag begins at ``start``, up to its own end tag, if that is near."""
    name = re.compile(rb"<([a-z][a-z0-9]{0,15})").match(lowered, start)
    begin = lowered.find(b">", start, start + TAG_BYTES) + 1
    if not name or not begin:
        return ""
    end = lowered.find(b"</" + name[1], begin, begin + ELEMENT_BYTES)
    return html.unescape(TAGS.sub(" ", data[begin:end].decode("utf-8", "replace"))) if end >= 0 else ""


def _occurrences(lowered: bytes, what: bytes) -> Iterator[int]:
    at = -1
    for _ in range(MAX_TAGS):
        at = lowered.find(what, at + 1)
        if at < 0:
            return
        yield at


def _tags_with(lowered: bytes, mark: bytes) -> Iterator[int]:
    """Where the tags begin that have a mark inside them."""
    for at in _occurrences(lowered, mark):
        start = lowered.rfind(b"<", max(0, at - TAG_BYTES), at)
        if start >= 0 and lowered.find(b">", start, at) < 0:
            yield start


# ---- names ----------------------------------------------------------------------------------------------------------


def _authors(names: Iterable[str]) -> str | None:
    """Names, cleaned, each once. Addresses of people or pages are no names."""
    kept: dict[str, None] = {}
    for name in names:
        name = clean_line(html.unescape(name[: 4 * LONGEST_NAME])).strip(" ,;|")
        if name[:3].lower() == "by ":
            name = name[3:].strip()
        if _is_name(name):
            kept[name] = None
        if len(kept) == MAX_AUTHORS:
            break
    return "; ".join(kept) or None


def _is_name(text: str) -> bool:
    if len(text) > LONGEST_NAME or text.lower() in NOBODY or "@" in text or "://" in text:
        return False
    return any(character.isalpha() for character in text)
