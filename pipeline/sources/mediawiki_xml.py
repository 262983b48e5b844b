"""Pages of a MediaWiki XML dump, one at a time, from whatever pieces the file gives.

The stream is cut behind every ``</page>`` and ``</revision>`` and fed to the XML parser piece by piece. What is damaged
(markup that is no XML, a page that is too large) costs that page: the parser begins anew behind it. Characters that XML
forbids are left out, bytes that are no UTF-8 replaced. Of a page's revisions the newest by its time stays, so that a dump of
histories holds one page in memory, with two revisions of it.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from pipeline.compression import Lost
from pipeline.sources.wikitext import Wiki

MEDIA_NAMESPACES = frozenset({-2, 6, 14})
TEMPLATE_NAMESPACE = 10
ROOT = b"<mediawiki>"
_ENDS = re.compile(rb"</(page|revision)>")
_LONGEST_END = 11
_FED = 1 << 20
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"
    "|&#(?:0{0,9}(?:[0-8]|1[124-9]|2[0-9]|3[01])|[xX]0{0,9}(?:[0-8bcefBCEF]|1[0-9a-fA-F]|[dD][89a-fA-F][0-9a-fA-F]{2}|[fF]{3}[eEfF]));"
)


@dataclass
class Site:
    """What the dump says about itself, and how far it was read."""

    base: str = ""
    wiki: Wiki = field(default_factory=Wiki)
    pages: int = 0
    older_revisions: int = 0


@dataclass(frozen=True)
class BadPage:
    """A page that could not be read."""

    why: str
    too_large: bool = False


class NoDump(Exception):
    """The file is no MediaWiki dump."""


class DumpCut(Exception):
    """The dump ends before it is over."""


def pages(found: Iterable[bytes | Lost], site: Site, most: int) -> Iterator[Element | BadPage | Lost]:
    """Every page with bare tag names, what was lost between, and at the end ``DumpCut`` or ``NoDump`` raised if it is one.

    ``most``: a page, or a revision of it, that is larger is not read.
    """
    reader = _Reader(site)
    since_end, skipping, behind_loss = 0, False, False
    for piece, end in _cut(found):
        if isinstance(piece, Lost):
            yield piece
            reader, skipping, behind_loss, since_end = _Reader(site, ROOT), True, True, 0
            continue
        skipping = skipping and not (behind_loss and piece.lstrip().startswith(b"<page>"))
        behind_loss = False
        since_end += len(piece)
        too_large = since_end > most
        since_end = 0 if end else since_end
        if skipping:
            skipping = end != b"page"
            continue
        try:
            if too_large:
                raise ParseError(f"it holds more than {most} bytes")
            yield from reader.feed(piece)
        except ParseError as error:
            if reader.foreign or (not site.pages and not end):
                raise NoDump(str(error)) from error
            yield BadPage(str(error), too_large)
            reader, skipping = _Reader(site, ROOT), end != b"page"
    if not skipping:
        reader.close()
    elif not site.pages:
        raise NoDump("nothing of it can be read")


def _cut(found: Iterable[bytes | Lost]) -> Iterator[tuple[bytes | Lost, bytes]]:
    """Pieces and what ends with them: ``page``, ``revision`` or nothing."""
    held = bytearray()
    for data in found:
        if isinstance(data, Lost):
            held.clear()
            yield data, b""
            continue
        held += data
        begin = 0
        for match in _ENDS.finditer(held):
            yield bytes(held[begin : match.end()]), match[1]
            begin = match.end()
        del held[:begin]
        if len(held) > _FED:
            kept = len(held) - _LONGEST_END
            yield bytes(held[:kept]), b""
            del held[:kept]
    if held:
        yield bytes(held), b""


class _Reader:
    """An XML parser that gives pages and is emptied behind them."""

    def __init__(self, site: Site, root: bytes = b"") -> None:
        self.site = site
        self.foreign = False
        self.parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.top: Element | None = None
        self.page: Element | None = None
        self.newest: tuple[tuple[str, int], Element] | None = None
        if root:
            self.parser.feed(root)

    def feed(self, data: bytes) -> Iterator[Element]:
        text = self.decoder.decode(data)
        self.parser.feed(_FORBIDDEN.sub("", text) if _FORBIDDEN.search(text) else text)
        for event, element in cast(Iterator[tuple[str, Element]], self.parser.read_events()):
            name = element.tag.rpartition("}")[2]
            if event == "start":
                self.begin(element, name)
                continue
            element.tag = name
            if name == "revision":
                self.keep_newest(element)
            elif name == "siteinfo" and self.top is not None:
                describe(self.site, element, self.top)
            elif name == "page" and self.top is not None:
                self.site.pages += 1
                yield element
                self.top.clear()
                self.page = self.newest = None

    def begin(self, element: Element, name: str) -> None:
        if self.top is None:
            self.top = element
            self.foreign = name != "mediawiki"
            if self.foreign:
                raise ParseError(f"it begins with <{name}>")
        elif name == "page":
            self.page, self.newest = element, None

    def keep_newest(self, revision: Element) -> None:
        if self.page is None:
            return
        number = revision.findtext("id", "")
        key = revision.findtext("timestamp", ""), int(number) if number.isdecimal() else 0
        if self.newest is None:
            self.newest = key, revision
            return
        self.site.older_revisions += 1
        older = revision
        if key >= self.newest[0]:
            older = self.newest[1]
            self.newest = key, revision
        self.page.remove(older)

    def close(self) -> None:
        try:
            self.parser.close()
        except ParseError as error:
            raise (DumpCut if self.site.pages else NoDump)(str(error)) from error
        if not self.site.pages:
            raise NoDump("it has no page")


def describe(site: Site, info: Element, top: Element) -> None:
    """Address, language and names of namespaces."""
    base = info.findtext("base", "")
    site.base = base.rpartition("/")[0] + "/" if base else ""
    host = urlsplit(base).hostname or ""
    language = top.get("{http://www.w3.org/XML/1998/namespace}lang") or host.split(".", 1)[0]
    names: dict[int, set[str]] = {}
    for space in info.iter("namespace"):
        if (name := (space.text or "").strip().lower()) and space.get("key", "").lstrip("-").isdigit():
            names.setdefault(int(space.get("key", "0")), set()).add(name)
    site.wiki = Wiki(
        language or None,
        frozenset(name for key in MEDIA_NAMESPACES for name in names.get(key, ())),
        frozenset({"template"} | names.get(TEMPLATE_NAMESPACE, set())),
    )
