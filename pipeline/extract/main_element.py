"""The element that holds a page's text where neither its name nor its class says so.

trafilatura finds a page's text by names: ``<article>``, ``class="post-content"`` and some sixty more. On a page without any
(plain old pages, own names, other languages) it gathers paragraphs, tables, code and quotations from wherever they
are, and the headings and lists between them are lost. There the text is what the parent of most of the paragraphs holds;
that element is called an article here, unless there is nothing in it to lose.
"""

from lxml import etree
from lxml.html import HtmlElement
from trafilatura import main_extractor

OTHERS = ("ul", "ol", "dl", "h1", "h2", "h3", "h4", "h5", "h6")
"""What is lost without a main element."""
CHARACTERS = 80
"""Of paragraphs, at least."""
SHARE = 0.8
"""Of the long texts of a page that its main element holds, at least."""
LONG_TEXTS = etree.XPath(
    "//text()[string-length() >= 80][not(ancestor::script or ancestor::style or ancestor::noscript or ancestor::head)]"
)


def name_main_element(tree: HtmlElement) -> None:
    """Give the parent of most of a page's paragraphs the role of an article, if trafilatura would find no main element."""
    parent = _parent_of_paragraphs(tree)
    if parent is None or next(parent.iterchildren(*OTHERS), None) is None or not _holds_most(parent) or _is_named(tree):
        return
    if parent.tag not in ("div", "section"):
        inner = parent.makeelement("div")
        inner.text, parent.text = parent.text, None
        inner.extend(list(parent))
        parent.append(inner)
        parent = inner
    parent.set("role", "article")


def _parent_of_paragraphs(tree: HtmlElement) -> HtmlElement | None:
    sizes: dict[HtmlElement, int] = {}
    for paragraph in tree.iter("p"):
        parent = paragraph.getparent()
        if parent is not None:
            sizes[parent] = sizes.get(parent, 0) + len(paragraph.text_content().strip())
    parent = max(sizes, key=sizes.__getitem__, default=None)
    return None if parent is None or sizes[parent] < CHARACTERS else parent


def _holds_most(parent: HtmlElement) -> bool:
    held = everything = 0
    for text in LONG_TEXTS(parent):
        size = len(text)
        everything += size
        holder = text.getparent()
        if text.is_tail:
            holder = holder.getparent()
        if holder is parent or parent in holder.iterancestors():
            held += size
    return held >= SHARE * everything


def _is_named(tree: HtmlElement) -> bool:
    return any(next(iter(find(tree)), None) is not None for find in main_extractor.BODY_XPATH)
