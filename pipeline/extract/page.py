"""One HTTP response in, one text out, or a reason why not.

The order is by cost. Status, type and size cost nothing; a payload seen before in this unit costs a dictionary look-up;
decoding, one pass over the bytes (``scan.py``) and the language of the text it finds cost less than a millisecond; only then
comes the extractor, on a page from which menus, scripts and lists of links are already cut. Each costly step runs
under the document's time limit, and a page on which trafilatura fails or hangs is given to resiliparse before it is
given up.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from lxml.etree import LxmlError
from pydantic import Field, field_validator

from infra.config import Config, Execution
from infra.errors import ConfigError
from infra.execution.limits import DocumentLost, time_limit
from infra.extensions import load, offered, reference_of
from pipeline.extract.clean import clean_line, clean_text
from pipeline.extract.decode import decode, is_binary
from pipeline.extract.elements import tex_shown, without_permalinks
from pipeline.extract.extractors import (
    RESILIPARSE,
    TRAFILATURA,
    Markup,
    Mode,
    OutsideExtractor,
    TrafilaturaExtractor,
    page_title,
    with_resiliparse,
)
from pipeline.extract.language_gate import SAMPLE_BYTES, LanguageGate
from pipeline.extract.metadata import NOTHING_DECLARED, Metadata, page_metadata
from pipeline.extract.refusal import Refused
from pipeline.extract.scan import Scan, sample_text, scan_page
from pipeline.extract.unpack import unpack
from pipeline.extract.url_rules import UrlRules, read_url_rules
from pipeline.language import LanguageCode

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/xhtml"})
XML_TYPES = frozenset({"application/xml", "text/xml"})
"""XHTML came under these too."""
NO_TYPES = frozenset({"", "unknown/unknown", "application/unknown", "content/unknown", "unknown", "none", "null"})
TEXT_TYPES = frozenset({"text/plain"})
XHTML = re.compile(rb"<!doctype\s+html\b|<html[\s>]", re.I)
SNIFF_BYTES = 1024


def _extractors(schema: dict[str, Any]) -> None:
    schema["enum"] = [TRAFILATURA, RESILIPARSE, *sorted(offered("extractor"))]


class ExtractConfig(Config):
    """How pages become text."""

    extractor: str = Field(default=TRAFILATURA, json_schema_extra=_extractors)
    """trafilatura (best text) or resiliparse (ten times faster, more boilerplate), or the dotted path of another package's."""
    mode: Mode = "fast"
    """trafilatura's setting: fast, standard, precision, recall."""
    markup: Markup = "text"
    """text, or markdown: tables, lists, headings, emphasis and code blocks in Markdown (trafilatura only)."""
    blocked_urls: Annotated[tuple[str, ...], Execution()] = ()
    """Lists of domains and beginnings of addresses that are not wanted, one a line; their content is their identity."""
    tables: bool = True
    """Keep the text of tables."""
    comments: bool = False
    """Keep readers' comments."""
    metadata: bool = True
    """Read author, date of publication and licence as the page declares them."""

    @field_validator("extractor")
    @classmethod
    def _is_there(cls, given: str) -> str:
        if given not in (TRAFILATURA, RESILIPARSE):
            if reference_of(given, "extractor") is None:
                raise ValueError(f"there is {TRAFILATURA}, {RESILIPARSE}, or a dotted path: package.module:NAME")
            load(given, "extractor", OutsideExtractor)
        return given

    languages: tuple[LanguageCode, ...] = ()
    """Extract only pages that may be in these languages (ISO 639-1); empty extracts all."""
    language_threshold: float = Field(default=0.2, ge=0, le=1)
    """Least probability of the wanted languages on the raw text."""
    max_page_bytes: int = Field(default=8_000_000, ge=1_000)
    """Larger bodies, packed or unpacked, are dropped."""
    max_elements: int = Field(default=100_000, ge=100)
    """Pages with more tags go to resiliparse, whose time grows linearly."""
    seconds: float = Field(default=20.0, gt=0, le=600)
    """Time limit for one page and extractor."""
    prune: bool = True
    """Cut elements that are nothing but links before extraction: twice as fast, and no worse."""
    min_characters: int = Field(default=1, ge=1)
    """Shorter texts are dropped, and pages with less visible text are not extracted at all."""


@dataclass(frozen=True)
class Page:
    """A response as stored: headers in lower case."""

    id: bytes
    url: str
    body: bytes
    status: int = 200
    content_type: str = ""
    charset: str = ""
    content_encoding: str = ""
    transfer_encoding: str = ""
    captured: str = ""


@dataclass(frozen=True)
class Extracted:
    """A page's text, and what the page says of itself."""

    text: str
    title: str | None
    extractor: str
    metadata: Metadata = NOTHING_DECLARED


@dataclass
class PageExtractor:
    """The chain for one unit. ``seen`` is per unit, so that the result never depends on what a worker did before."""

    config: ExtractConfig
    trafilatura: TrafilaturaExtractor
    gate: LanguageGate | None = None
    blocked: UrlRules | None = None
    other: OutsideExtractor | None = None
    """That of another package, in trafilatura's place."""
    seen: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def create(cls, config: ExtractConfig, language_model: Path | None) -> "PageExtractor":
        extractor = TrafilaturaExtractor(
            mode=config.mode, tables=config.tables, comments=config.comments, markup=config.markup
        )
        wanted = frozenset(config.languages)
        gate = LanguageGate(language_model, wanted) if wanted and language_model else None
        blocked = read_url_rules(config.blocked_urls) if config.blocked_urls else None
        ours = config.extractor in (TRAFILATURA, RESILIPARSE)
        other = None if ours else load(config.extractor, "extractor", OutsideExtractor)
        return cls(config, extractor, gate, blocked, other)

    def extract(self, page: Page) -> Extracted:
        """The page's text. Raises ``Refused`` with the reason."""
        kind = self._check(page)
        html = self._decode(page, kind)
        if kind == "text":
            return self._plain(html, "plain text")
        html = tex_shown(without_permalinks(html))
        scan = scan_page(html.encode("utf-8", "replace"))
        self._check_text(scan)
        data = scan.pruned() if self.config.prune else scan.data
        text, extractor = self._main_text(page, data)
        text = self._accept(text)
        title = page_title(html)
        metadata = NOTHING_DECLARED
        if self.config.metadata:
            metadata = page_metadata(html, scan.data, data, page.captured)
        return Extracted(text, clean_line(title)[:500] if title else None, extractor, metadata)

    def stored_text(self, page: Page) -> Extracted:
        """A text that was extracted before (WET). Raises ``Refused`` where address, language or length do not fit."""
        self._check_address(page)
        return self._plain(decode(page.body, "utf-8", html=False).text, "conversion")

    def _plain(self, text: str, extractor: str) -> Extracted:
        text = self._accept(text)
        middle = max(0, (len(text) - SAMPLE_BYTES) // 2)
        self._check_language(text[middle : middle + SAMPLE_BYTES])
        return Extracted(text, None, extractor)

    def _check_address(self, page: Page) -> None:
        if self.blocked and (entry := self.blocked.entry_for(page.url)):
            raise Refused("dropped", "url_blocked", detail=entry[:200])

    def _check(self, page: Page) -> str:
        """Everything that can be told without looking into the body. Returns ``html`` or ``text``."""
        if page.status != 200:
            raise Refused("dropped", "http_status", score=float(page.status), threshold=200.0)
        self._check_address(page)
        if not page.body.strip():
            raise Refused("dropped", "empty_payload")
        if len(page.body) > self.config.max_page_bytes:
            raise Refused(
                "dropped", "page_too_large", score=float(len(page.body)), threshold=float(self.config.max_page_bytes)
            )
        declared = page.content_type.split(";", 1)[0].strip().lower()
        if declared in TEXT_TYPES:
            kind = "text"
        elif declared in HTML_TYPES or (declared in XML_TYPES | NO_TYPES and self._is_html(page, declared)):
            kind = "html"
        else:
            raise Refused("dropped", "content_type", detail=declared[:100] or "none declared, no markup found")
        digest = hashlib.blake2b(page.body, digest_size=16).digest()
        if (first := self.seen.setdefault(digest, page.id)) != page.id:
            raise Refused("dropped", "payload_seen", "the same bytes under another address", survivor=first)
        return kind

    def _is_html(self, page: Page, declared: str) -> bool:
        """Told by its beginning: XHTML among XML, any markup where no type is declared."""
        head = self._unpacked(page)[:SNIFF_BYTES]
        return bool(XHTML.search(head)) if declared in XML_TYPES else b"<" in head

    def _unpacked(self, page: Page) -> bytes:
        return unpack(page.body, page.content_encoding, page.transfer_encoding, self.config.max_page_bytes)

    def _decode(self, page: Page, kind: str) -> str:
        body = self._unpacked(page)
        text = decode(body, page.charset, html=kind == "html").text
        if is_binary(body, text):
            raise Refused("dropped", "content_type", detail="binary data under a text type")
        return text.replace("\0", "")

    def _main_text(self, page: Page, data: bytes) -> tuple[str, str]:
        name = page.id.hex()
        if self.other is not None:
            text = self._by_other(self.other, name, data)
            if text is not None:
                return text, self.config.extractor
        if self.config.extractor == TRAFILATURA and data.count(b"<") <= self.config.max_elements:
            text = self._by_trafilatura(name, data)
            if text is not None:
                return text, TRAFILATURA
        return self._fall_back(name, data), RESILIPARSE

    def _check_text(self, scan: Scan) -> None:
        """Whether there is text enough, in a language that is wanted."""
        texts = scan.kept_texts()
        size = int((texts[:, 1] - texts[:, 0]).sum())
        # Some pages carry their article as data, from which trafilatura can restore it.
        if size < self.config.min_characters and b"articleBody" not in scan.data:
            raise Refused("dropped", "no_text", score=float(size), threshold=float(self.config.min_characters))
        if self.gate:
            self._check_language(sample_text(scan.data, texts, SAMPLE_BYTES))

    def _check_language(self, sample: str) -> None:
        if self.gate:
            share = self.gate.wanted_share(sample)
            if share < self.config.language_threshold:
                raise Refused("dropped", "raw_language", score=share, threshold=self.config.language_threshold)

    def _by_trafilatura(self, name: str, data: bytes) -> str | None:
        """None where trafilatura or lxml cannot handle the page: resiliparse parses by other code."""
        try:
            with time_limit(self.config.seconds, document=name):
                return self.trafilatura.text(data)
        except (DocumentLost, LxmlError, RecursionError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def _by_other(self, other: OutsideExtractor, name: str, data: bytes) -> str | None:
        """None where it gives up, for whatever reason: its defect must not cost the page."""
        try:
            with time_limit(self.config.seconds, document=name):
                return other.text(data)
        except Exception:
            return None

    def _fall_back(self, name: str, data: bytes) -> str:
        try:
            with time_limit(self.config.seconds, document=f"{name}-fallback"):
                return with_resiliparse(data.decode("utf-8", "replace"), comments=self.config.comments)
        except DocumentLost as lost:
            raise Refused("failed", f"extraction_{lost.rule}", str(lost)) from None
        except Exception as error:
            raise Refused("failed", "extraction_error", f"{type(error).__name__}: {error}"[:200]) from None

    def _accept(self, text: str) -> str:
        text = clean_text(text)
        if len(text) < self.config.min_characters:
            raise Refused("dropped", "no_text", score=float(len(text)), threshold=float(self.config.min_characters))
        return text


def extract_html(html: str | bytes, url: str = "", config: ExtractConfig | None = None) -> Extracted:
    """The text of one page, and what the page says of itself. Raises ``Refused``, with the rule, if there is none.

    ``html`` as bytes is decoded as a browser does. ``config.languages`` needs a model, and is for stages only.
    """
    if config is not None and config.languages:
        raise ConfigError(
            "the language of a page is told by a model, which the stage ingest has", where="languages",
            remedy="Leave it out.",
        )  # fmt: skip
    body, charset = (html, "") if isinstance(html, bytes) else (html.encode("utf-8", "replace"), "utf-8")
    page = Page(hashlib.blake2b(body, digest_size=16).digest(), url, body, content_type="text/html", charset=charset)
    return PageExtractor.create(config or ExtractConfig(), None).extract(page)
