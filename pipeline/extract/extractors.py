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

from pipeline.extract.attribute_tests import by_attributes
from pipeline.extract.code_blocks import SCRIPT, fenced
from pipeline.extract.elements import ready, references_kept
from pipeline.extract.layout import shown_spaces, without_layout
from pipeline.extract.main_element import one_main_element
from pipeline.extract.unprintable import disguised, restored

TRAFILATURA, RESILIPARSE = "trafilatura", "resiliparse"
Mode = Literal["fast", "standard", "precision", "recall"]
Markup = Literal["text", "markdown"]

# libxml2 ends the page at some of them; two are white space to HTML and to its writers.
CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r")
TO_SPACES = bytes.maketrans(b"\v\f", b"  ")
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
        by_attributes()
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
        ready(tree)
        references_kept(tree)
        one_main_element(tree)
        text = restored(trafilatura.extract(tree, options=self._options) or "", carried)
        text = text if self._options.formatting else without_layout(text)
        return fenced(text) if fences else text


def with_resiliparse(html: str, *, comments: bool = False) -> str:
    """Main content by resiliparse's rules."""
    return extract_plain_text(html, preserve_formatting=True, main_content=True, alt_texts=False, comments=comments)


def page_title(html: str) -> str | None:
    match = TITLE.search(html, 0, TITLE_WINDOW)
    title = " ".join(html_entities.unescape(match[1]).split()) if match else ""
    return title[:500] or None
