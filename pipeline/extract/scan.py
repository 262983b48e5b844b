"""One pass over a page's bytes: where its visible text is, and which elements cannot be main text.

A compiled loop reads tags without building a tree (half a millisecond a page). For every block element it counts the
characters of its text, how many of them are inside links, and its longest run of text outside links. An element full of
links with no run that could be a sentence is a menu, a list of teasers, a footer: it is marked to be cut out before the real
extractor parses the page, whose time is mostly spent on just these elements. Scripts, styles and drawings are marked too.

The loop follows HTML's own rules where they matter for counting (void and raw-text elements, quoted attributes, items and
cells that end by themselves) and is otherwise forgiving: an end tag without a start is ignored, an element
without an end is never cut.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.kernels import kernel

# What a tag is, as bits.
VOID = 1  # has no content
RAW = 2  # its content is text up to its own end tag
ALWAYS = 4  # never main text
BLOCK = 8  # interrupts a run of text, and is counted
CUT = 16  # may be cut when it is nothing but links
BREAK = 32  # interrupts a run of text
LINK = 64
ITEM = 128  # ends where the next of its kind begins

TAGS = {
    **dict.fromkeys(["area", "base", "col", "embed", "img", "input", "link", "meta", "param", "source", "wbr"], VOID),
    **dict.fromkeys(["br", "hr"], VOID | BREAK),
    **dict.fromkeys(["textarea", "title", "xmp", "iframe", "noembed", "noframes"], RAW),
    **dict.fromkeys(["script", "style"], RAW | ALWAYS),
    **dict.fromkeys(["svg", "select", "canvas"], BLOCK | ALWAYS),
    **dict.fromkeys(
        ["div", "section", "nav", "aside", "footer", "header", "ul", "ol", "table", "form", "dl", "menu", "figure"],
        BLOCK | CUT,
    ),
    "li": BLOCK | CUT | ITEM,
    **dict.fromkeys(["tr", "td", "th"], BLOCK | ITEM),
    **dict.fromkeys(["tbody", "thead"], BLOCK),
    **dict.fromkeys(
        [
            "p",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "dt",
            "dd",
            "article",
            "main",
            "blockquo",
            "pre",
            "address",
            "fieldset",
        ],
        BREAK,
    ),
    "a": LINK,
}
# Chosen on the gold pages: a run of forty characters outside links may be a sentence, two links may be in one.
LONGEST_RUN = 40
LEAST_LINKS = 3
NAME_BYTES = 8
MAX_DEPTH = 2048
# Totals: characters of text, those inside links, links; and the run of text that goes on. Of an open element its totals
# when it was opened, its longest run, its tag and where it starts.
TEXT, LINK_TEXT, LINKS, RUN, TAG, START = range(6)


def _packed(name: str) -> int:
    """The first eight letters as one number, as the kernel sees them."""
    return int.from_bytes(name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0"), "big")


_ORDER = sorted(TAGS, key=_packed)
TAG_NAMES = np.array([_packed(name) for name in _ORDER], dtype=np.uint64)
TAG_KINDS = np.array([TAGS[name] for name in _ORDER], dtype=np.int64)
SCRIPT = _ORDER.index("script")
# What an item ends at the latest: the container of its kind.
CONTAINERS = np.zeros((len(_ORDER), len(_ORDER)), dtype=np.bool_)
for _item, _containers in {
    "li": ("ul", "ol", "menu"),
    "tr": ("table", "tbody", "thead"),
    "td": ("tr", "table"),
    "th": ("tr", "table"),
}.items():
    for _container in _containers:
        CONTAINERS[_ORDER.index(_item), _ORDER.index(_container)] = True


@dataclass(frozen=True)
class Scan:
    """A page's bytes, what to cut, and where its visible text is: rows of (start, end) byte offsets."""

    data: bytes
    cuts: npt.NDArray[np.int64]
    texts: npt.NDArray[np.int64]
    elements: int

    def pruned(self) -> bytes:
        """The page without its cuts, with a space in the place of each."""
        pieces = []
        position = 0
        for start, end in self.cuts.tolist():
            pieces.append(self.data[position:start])
            position = end
        pieces.append(self.data[position:])
        return b" ".join(pieces)

    def kept_texts(self) -> npt.NDArray[np.int64]:
        """The visible text outside the cuts."""
        if not len(self.cuts):
            return self.texts
        before = np.searchsorted(self.cuts[:, 0], self.texts[:, 0], side="right") - 1
        inside = (before >= 0) & (self.texts[:, 0] < self.cuts[np.maximum(before, 0), 1])
        kept: npt.NDArray[np.int64] = self.texts[~inside]
        return kept


def scan_page(data: bytes) -> Scan:
    """Scan UTF-8 encoded HTML."""
    array = np.frombuffer(data, dtype=np.uint8)
    cuts, texts, elements = _scan(array, TAG_NAMES, TAG_KINDS, CONTAINERS, SCRIPT, LONGEST_RUN, LEAST_LINKS)
    return Scan(data, _outermost(cuts), texts, int(elements))


def sample_text(data: bytes, texts: npt.NDArray[np.int64], size: int) -> str:
    """Some ``size`` bytes of text from the middle of the ranges (the ends of a page are navigation)."""
    lengths = texts[:, 1] - texts[:, 0]
    total = int(lengths.sum())
    reached = np.cumsum(lengths)
    first = int(np.searchsorted(reached, max(0, (total - size) // 2)))
    last = int(np.searchsorted(reached, (total + size) // 2)) + 1
    return b" ".join(data[start:end] for start, end in texts[first:last].tolist()).decode("utf-8", "replace")


def _outermost(cuts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ranges in order, those inside others left out."""
    if not len(cuts):
        return cuts
    cuts = cuts[np.lexsort((-cuts[:, 1], cuts[:, 0]))]
    reached = np.maximum.accumulate(cuts[:, 1])
    outer = np.ones(len(cuts), dtype=np.bool_)
    outer[1:] = cuts[1:, 0] >= reached[:-1]
    return cuts[outer]


@kernel
def _tag_id(data, start, end, names):  # type: ignore[no-untyped-def]
    """The tag's place in the table, or -1. Letters are compared in lower case, eight of them at most."""
    value = np.uint64(0)
    for place in range(8):
        byte = np.uint64(0)
        if start + place < end:
            byte = np.uint64(data[start + place])
            if 65 <= byte <= 90:
                byte = byte + np.uint64(32)
        value = (value << np.uint64(8)) | byte
    at = np.searchsorted(names, value)
    return at if at < len(names) and names[at] == value else -1


@kernel
def _next_tag(data, at):  # type: ignore[no-untyped-def]
    while at < len(data) and data[at] != 60:
        at += 1
    return at


@kernel
def _name_end(data, at):  # type: ignore[no-untyped-def]
    while at < len(data) and data[at] > 32 and data[at] != 62 and data[at] != 47:
        at += 1
    return at


@kernel
def _tag_end(data, at):  # type: ignore[no-untyped-def]
    """The position after the tag's ``>``; quotes count only where an attribute's value begins."""
    size = len(data)
    first = -1
    after_equals = False
    while at < size:
        byte = data[at]
        if byte == 62:
            return at + 1
        if after_equals and (byte == 34 or byte == 39):
            begin = at
            at += 1
            while at < size and data[at] != byte:
                if data[at] == 62 and first < 0:
                    first = at + 1
                at += 1
            if at >= size or at - begin > 65536:
                return first if first > 0 else size  # the closing quote is missing
            first = -1
            after_equals = False
        elif byte == 61:
            after_equals = True
        elif byte > 32:
            after_equals = False
        at += 1
    return size


@kernel
def _raw_end(data, at, name_start, name_end):  # type: ignore[no-untyped-def]
    """Where ``</name`` begins, or the end of the page."""
    size = len(data)
    length = name_end - name_start
    while at + 2 + length <= size:
        if data[at] == 60 and data[at + 1] == 47:
            same = True
            for place in range(length):
                if (data[at + 2 + place] | 32) != (data[name_start + place] | 32):
                    same = False
                    break
            if same:
                return at
        at += 1
    return size


@kernel
def _mentions_json(data, start, end):  # type: ignore[no-untyped-def]
    for at in range(start, end - 3):
        if data[at] | 32 == 106 and data[at + 1] | 32 == 115 and data[at + 2] | 32 == 111 and data[at + 3] | 32 == 110:
            return True
    return False


@kernel
def _text_end(data, at):  # type: ignore[no-untyped-def]
    """Where the text ends that begins here, and how much it says: a letter of an unspaced script as much as two of an
    alphabet, a gap between words one."""
    begin = at
    gap = False
    length = 0
    while at < len(data) and (data[at] != 60 or at == begin):
        byte = data[at]
        if byte <= 32:
            gap = length > 0
        elif byte < 128 or byte >= 192:
            length += (2 if gap else 1) + (byte >= 224)
            gap = False
        at += 1
    return at, length


@kernel
def _declaration_end(data, at):  # type: ignore[no-untyped-def]
    """Where a comment, or anything else that begins with ``<!`` or ``<?``, ends."""
    size = len(data)
    if at + 3 < size and data[at + 2] == 45 and data[at + 3] == 45:
        at += 4
        while at + 2 < size and not (data[at] == 45 and data[at + 1] == 45 and data[at + 2] == 62):
            at += 1
        return at + 3 if at + 2 < size else size
    while at < size and data[at] != 62:
        at += 1
    return min(at + 1, size)


@kernel
def _stay_open(opened, depth, tag, closing, kind, containers):  # type: ignore[no-untyped-def]
    """How many elements are open once this tag has ended what it ends; -1 for an end tag without a start."""
    place = depth - 1
    if closing:
        while place >= 0 and opened[place, TAG] != tag:
            place -= 1
        return place
    if kind & ITEM:
        while place >= 0 and opened[place, TAG] != tag and not containers[tag, opened[place, TAG]]:
            place -= 1
        if place >= 0 and opened[place, TAG] == tag:
            return place
    return depth


@kernel
def _is_cut(opened, depth, totals, kind, longest_run, least_links):  # type: ignore[no-untyped-def]
    """Whether the element that ends here is cut out. What is never text takes its own out of the totals."""
    if kind & ALWAYS:
        totals[:RUN] = opened[depth, :RUN]
        return True
    run = opened[depth, RUN]
    if depth:
        opened[depth - 1, RUN] = max(opened[depth - 1, RUN], run)
    text = totals[TEXT] - opened[depth, TEXT]
    link_text = totals[LINK_TEXT] - opened[depth, LINK_TEXT]
    links = totals[LINKS] - opened[depth, LINKS]
    return kind & CUT != 0 and links >= least_links and run < longest_run and 2 * link_text >= text


@kernel
def _appended(ranges, count, start, end):  # type: ignore[no-untyped-def]
    """The new number of ranges."""
    ranges[count, 0] = start
    ranges[count, 1] = end
    return count + 1


@kernel
def _scan(data, names, kinds, containers, script, longest_run, least_links):  # type: ignore[no-untyped-def]
    size = len(data)
    cuts, texts = np.empty((size // 4 + 8, 2), np.int64), np.empty((size // 4 + 8, 2), np.int64)
    opened, totals = np.zeros((MAX_DEPTH, 6), np.int64), np.zeros(4, np.int64)
    cut_count = text_count = elements = depth = at = 0
    link_depth = -1  # depth at which the open <a> stands, or -1
    while at < size:
        begin = at
        if data[at] != 60 or at + 1 >= size:
            at, length = _text_end(data, at)
            if length:
                text_count = _appended(texts, text_count, begin, at)
                totals[TEXT] += length
                totals[LINK_TEXT if link_depth >= 0 else RUN] += length
            continue
        if data[at + 1] == 33 or data[at + 1] == 63:  # <! or <?
            at = _declaration_end(data, at)
            cut_count = _appended(cuts, cut_count, begin, at)
            continue
        closing = data[at + 1] == 47
        name = at + 2 if closing else at + 1
        if name >= size or not (97 <= (data[name] | 32) <= 122):
            at = _next_tag(data, at + 1)  # a lone "<" is text; the next round takes it with what follows
            continue
        stop = _name_end(data, name)
        at = _tag_end(data, stop)
        tag = _tag_id(data, name, stop, names)
        elements += 1
        if tag < 0:
            continue
        kind = kinds[tag]
        if kind & (BLOCK | BREAK):
            if depth:
                opened[depth - 1, RUN] = max(opened[depth - 1, RUN], totals[RUN])
            totals[RUN] = 0
        if kind & LINK:
            totals[LINKS] += not closing
            link_depth = -1 if closing else depth
        elif kind & RAW and not closing:
            end = _raw_end(data, at, name, stop)
            if kind & ALWAYS and end < size and not (tag == script and _mentions_json(data, stop, at)):
                end = _tag_end(data, end + 2)
                cut_count = _appended(cuts, cut_count, begin, end)
            at = end
        elif kind & BLOCK:
            staying = _stay_open(opened, depth, tag, closing, kind, containers)
            while depth > staying >= 0:
                depth -= 1
                if _is_cut(opened, depth, totals, kinds[opened[depth, TAG]], longest_run, least_links):
                    end = at if closing and depth == staying else begin
                    cut_count = _appended(cuts, cut_count, opened[depth, START], end)
                if link_depth > depth:
                    link_depth = -1
            if not closing and depth < MAX_DEPTH:
                opened[depth, :RUN] = totals[:RUN]
                opened[depth, RUN] = 0
                opened[depth, TAG] = tag
                opened[depth, START] = begin
                depth += 1
    return cuts[:cut_count].copy(), texts[:text_count].copy(), elements
