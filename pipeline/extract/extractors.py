"""The extractors: HTML in, readable text out.

``trafilatura`` is the standard. It runs in its ``fast`` mode (no second opinion from other libraries: half the time, .001
F1 less on the gold pages), with scoped settings only; its ``deduplicate`` option is a cache shared by the whole
process, so that a page's text would depend on the pages before it, and stays off. It is handed a tree parsed here, whose
elements are made in C instead of by a Python call each. ``resiliparse`` is ten times faster, keeps more boilerplate, and
is what remains when trafilatura cannot handle a page.
"""

import html as html_entities
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import trafilatura
from lxml import etree
from lxml.html import HtmlElement
from resiliparse.extract.html2text import extract_plain_text
from trafilatura.settings import Extractor as Options

from pipeline.extract.code_blocks import BEFORE, SCRIPT, carried_code, fenced, is_code
from pipeline.extract.unprintable import disguised, restored

TRAFILATURA, RESILIPARSE = "trafilatura", "resiliparse"
Mode = Literal["fast", "standard", "precision", "recall"]
Markup = Literal["text", "markdown"]

# libxml2 ends the page at some of them; two are white space to HTML and to its writers.
CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r")
TO_SPACES = bytes.maketrans(b"\v\f", b"  ")
# Where white space is shown as it is written. Code outside <pre> has a style sheet that says so, as a rule.
PRESERVED = re.compile(
    rb"<(pre|code|textarea|listing|xmp)\b|<[a-z]+\s[^<>]{0,500}white-space\s*:\s*(?:pre|break-spaces)[^<>]*>", re.I
)
# A line break between wide letters is none: they are written without spaces.
WIDE = re.compile(rb"[\xe3-\xe9]")
WIDE_BREAK = re.compile(rb"(?<=[\xe3-\xe9][\x80-\xbf]{2})[ \t\r]*\n\s*(?=[\xe3-\xe9])")
TABLE = re.compile(r"(?:^[ \t]*\|.*\|[ \t]*(?:\n|\Z))+", re.M)
CELL = re.compile(r"(?<!\\)\|")
TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,2000})", re.IGNORECASE)
TITLE_WINDOW = 131_072


@dataclass(frozen=True)
class OutsideExtractor:
    """An extractor of another package: UTF-8 encoded HTML in, its main text out (empty where there is none).

    A page on which it raises anything, or takes too long, goes to resiliparse.
    """

    text: Callable[[bytes], str]


class TrafilaturaExtractor:
    """trafilatura with one set of options, read once (they cost half a millisecond a page otherwise)."""

    def __init__(
        self, *, mode: Mode = "fast", tables: bool = True, comments: bool = False, markup: Markup = "text"
    ) -> None:
        logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it warns of each page without text
        self._options = Options(
            output_format="markdown" if markup == "markdown" else "txt",
            formatting=markup == "markdown",
            fast=mode == "fast",
            precision=mode == "precision",
            recall=mode == "recall",
            comments=comments,
            tables=tables,
            dedup=False,
        )
        self._parser = etree.HTMLParser(
            collect_ids=False, default_doctype=False, encoding="utf-8", remove_comments=True, remove_pis=True
        )
        self._parser.set_element_class_lookup(etree.ElementDefaultClassLookup(element=HtmlElement))

    def text(self, html: bytes) -> str:
        """Main text of a UTF-8 encoded page; empty where there is none."""
        fences = not self._options.formatting and SCRIPT not in html
        html = shown_spaces(html.translate(TO_SPACES, CONTROLS), fences=fences)
        html, carried = disguised(html)
        if not html.strip():
            return ""
        tree = etree.fromstring(html, parser=self._parser)
        text = restored(trafilatura.extract(tree, options=self._options) or "", carried)
        text = text if self._options.formatting else without_layout(text)
        return fenced(text) if fences else text


def shown_spaces(html: bytes, *, fences: bool = False) -> bytes:
    """A page with its white space as a browser shows it: one space, whatever the width at which its source was wrapped.

    trafilatura keeps the source's line ends and indentation, by which a paragraph becomes lines that end anywhere.
    ``fences``: blocks of code are readied for ``fenced``.
    """
    wide = not html.isascii() and WIDE.search(html) is not None
    pieces: list[bytes] = []
    position, unclosed = 0, set[bytes]()
    while opening := PRESERVED.search(html, position):
        name, start = (opening[1] or b"").lower(), opening.start()
        end = -1 if name in unclosed else _preserved_end(html, opening)
        if end < 0:
            unclosed.add(name)
            end = opening.end()
        element = html[start:end]
        if fences and name == b"pre" and is_code(html[max(0, start - BEFORE) : start], element):
            element = carried_code(element)
        elif fences and name == b"code" and b"\n" not in element:
            element = _inner(element)  # trafilatura gives it a line of its own
        pieces += [_one_space(html[position:start], wide), element]
        position = end
    return b"".join([*pieces, _one_space(html[position:], wide)])


def _preserved_end(html: bytes, opening: re.Match[bytes]) -> int:
    """Behind the end of an element, -1 where it has none; of a style, where the next tag begins."""
    if not opening[1]:
        return html.find(b"<", opening.end())
    closing = re.compile(rb"</" + opening[1] + rb"\b[^>]*>", re.I).search(html, opening.end())
    return closing.end() if closing else -1


def without_layout(text: str) -> str:
    """An extractor's text in which rows without content are gone, and tables are no tables that only place one cell.

    Pages of old lay out their articles by them, and rules on lines saw one that ends in a bar.
    """
    return TABLE.sub(_table, text) if "|" in text else text


def _table(found: re.Match[str]) -> str:
    rows = [(line, [cell.strip() for cell in CELL.split(line.strip()[1:-1])]) for line in found[0].splitlines()]
    rows = [(line, [cell for cell in cells if cell]) for line, cells in rows]
    if all(len(cells) <= 1 or set("".join(cells)) <= {"-"} for _, cells in rows):
        rows = [(cells[0], cells) for _, cells in rows if cells and set(cells[0]) != {"-"}]
    return "".join(line + "\n" for line, cells in rows if cells)


def _inner(element: bytes) -> bytes:
    return element[element.find(b">") + 1 : element.rfind(b"</")] if b">" in element else element


def _one_space(html: bytes, wide: bool) -> bytes:
    html = WIDE_BREAK.sub(b"", html) if wide else html
    words = b" ".join(html.split())
    return b" " * html[:1].isspace() + words + b" " * (bool(words) and html[-1:].isspace())


def with_resiliparse(html: str, *, comments: bool = False) -> str:
    """Main content by resiliparse's rules."""
    return extract_plain_text(html, preserve_formatting=True, main_content=True, alt_texts=False, comments=comments)


def page_title(html: str) -> str | None:
    match = TITLE.search(html, 0, TITLE_WINDOW)
    title = " ".join(html_entities.unescape(match[1]).split()) if match else ""
    return title[:500] or None
