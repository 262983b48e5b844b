"""One element that holds a page's text, under a name that trafilatura knows.

trafilatura finds a page's text by names: ``<article>``, ``class="post-content"`` and some sixty more, and takes the first
element that has one.

parts of one name    an article between whose parts stand advertisements, columns of a page builder, posts of a blog's first
                     page: all but the first part would be lost. What holds all of them is the article.
no name              plain old pages, own names, other languages: paragraphs are gathered from wherever they are, and the
                     headings and lists between them are lost. The parent of most of the paragraphs is the article.

Either holds only where those elements have a good part of the page's long texts: elsewhere trafilatura finds more.
"""

from collections.abc import Sequence

from lxml import etree
from lxml.html import HtmlElement
from trafilatura.xpaths import BODY_XPATH

BETWEEN = ("ul", "ol", "dl", "h1", "h2", "h3", "h4", "h5", "h6")
"""What is lost between paragraphs without a main element."""
PART_CHARACTERS, PART_SHARE = 200, 0.5
"""Least text of a part in paragraphs, and their share of it: others are boxes, lists and cards."""
LEAST_CHARACTERS = 80
"""Of paragraphs without a name around them."""
SHARE_OF_PARTS, SHARE_OF_PARENT = 0.4, 0.8
"""Of the page's long texts, at least."""
LONG_TEXTS = etree.XPath(
    "//text()[string-length() >= 80][not(ancestor::script or ancestor::style or ancestor::noscript or ancestor::head)]"
)


def one_main_element(tree: HtmlElement) -> None:
    """Name what holds the page's text, if trafilatura would take a part of it or find nothing by a name."""
    texts, parent = _texts_by_class(tree), _parent_of_paragraphs(tree)
    if not texts and parent is None:  # as on most pages: the names need not be looked for
        return
    named = next((found[0] for find in BODY_XPATH if (found := list(find(tree)))), None)
    if named is None:
        if parent is not None:
            _call_article(parent)
        return
    parts = texts.get((named.tag, named.get("class")), [])
    if named in parts and _hold(parts, SHARE_OF_PARTS):
        around_all = set.intersection(*(set(part.iterancestors()) for part in parts))
        _call_article(next(above for above in named.iterancestors() if above in around_all))


def _texts_by_class(tree: HtmlElement) -> dict[tuple[str, str], list[HtmlElement]]:
    """By tag and class those elements that are text, outside of each other, where there are several."""
    known: set[HtmlElement] = set()
    groups: dict[tuple[str, str], list[HtmlElement]] = {}
    for paragraph in tree.iter("p"):
        for above in paragraph.iterancestors():
            if above in known:
                break
            known.add(above)
            if above.tag in ("div", "section") and (name := above.get("class")):
                groups.setdefault((above.tag, name), []).append(above)
    found = {}
    for key, elements in groups.items():
        if len(elements) > 1 and len(texts := [each for each in elements if _is_text(each)]) > 1:
            inner = frozenset(texts)
            found[key] = [text for text in texts if not _within(text, inner)]
    return {key: texts for key, texts in found.items() if len(texts) > 1}


def _parent_of_paragraphs(tree: HtmlElement) -> HtmlElement | None:
    """None where there is too little, nothing but paragraphs, or much beside it."""
    sizes: dict[HtmlElement, int] = {}
    for paragraph in tree.iter("p"):
        parent = paragraph.getparent()
        if parent is not None:
            sizes[parent] = sizes.get(parent, 0) + len(paragraph.text_content().strip())
    parent = max(sizes, key=sizes.__getitem__, default=None)
    if parent is None or sizes[parent] < LEAST_CHARACTERS or next(parent.iterchildren(*BETWEEN), None) is None:
        return None
    return parent if _hold([parent], SHARE_OF_PARENT) else None


def _is_text(element: HtmlElement) -> bool:
    size = sum(len(paragraph.text_content().strip()) for paragraph in element.iter("p"))
    return size >= PART_CHARACTERS and size >= PART_SHARE * len(element.text_content().strip())


def _hold(parts: Sequence[HtmlElement], share: float) -> bool:
    """Whether so much of the page's long texts stands in some of its elements."""
    held, everything, known = 0, 0, frozenset(parts)
    for text in LONG_TEXTS(parts[0]):
        holder = text.getparent().getparent() if text.is_tail else text.getparent()
        everything += len(text)
        if holder in known or _within(holder, known):
            held += len(text)
    return held >= share * everything


def _within(element: HtmlElement, others: frozenset[HtmlElement]) -> bool:
    return any(above in others for above in element.iterancestors())


def _call_article(element: HtmlElement) -> None:
    """The first name that trafilatura looks for, which only some elements may have."""
    if element.tag not in ("div", "section", "main", "article"):
        inner = element.makeelement("div")
        inner.text, element.text = element.text, None
        inner.extend(list(element))
        element.append(inner)
        element = inner
    element.set("itemprop", "articleBody")
