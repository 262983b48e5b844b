"""A page's tree, readied for trafilatura: what a browser shows and it would drop or tear apart becomes what it keeps.

template, hidden        go: no browser shows them (a declarative shadow root is shown, and what its heading or tab opens is read)
headings that open      a heading whose words are a button: the words
links to headings       go: ¶ or # behind a heading or paragraph
q                       its quotation marks, which are the browser's; for trafilatura it is a block
time                    words, in a sentence or a list; elsewhere it is a page's own stamp, and goes
lists in cells          the cell's text, item by item: trafilatura drops a list in a table
tables that only place  blocks, one after the other: one filled cell a row, or other tables within
figure, footer          of code and quotations: their content
formulas                TeX where the page has it (MathJax, KaTeX, Wikipedia, pictures), else MathML written on one line
pictures of emoji       the character that is their alt
center                  a block, its loose text a paragraph
references as text      ``&amp;lt;`` on the page is ``&lt;`` to a reader; trafilatura resolves what it wrote once more
"""

import html as html_entities
import re
from collections.abc import Callable, Iterator

from lxml import etree
from lxml.html import HtmlElement

TEX_SCRIPT = re.compile(r"<script\b[^<>]{0,200}\bmath/tex([^<>]{0,100})>((?:[^<]++|<(?!/?script\b))*+)</script>", re.I)
CDATA = re.compile(r"%?\s{0,99}<!\[CDATA\[(.*?)(?:%?\s{0,99}\]\]>)?", re.S)
LONGEST_TEX = 20_000
TEX_CLASS = "headwater-tex"
HIDDEN = etree.XPath("//*[@hidden and not(@hidden='until-found')]")
OPENED = etree.XPath(
    "//*[self::h1 or self::h2 or self::h3 or self::h4 or self::h5 or self::h6 or self::dt]//@aria-controls"
)
PANELS = frozenset({"tabpanel", "region"})
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary")
PERMALINK = re.compile(
    r"<a\b([^<>]{1,600})>\s{0,20}(?:<span[^<>]{0,100}>\s{0,20})?"
    r"(?:[¶#§🔗\uf0c1]|&para;|&#182;|&#xb6;|&sect;)\s{0,20}(?:</span>\s{0,20})?</a>",
    re.I,
)
FRAGMENT = re.compile(r"\bhref\s{0,3}=\s{0,3}[\"']?[^\"'<>\s#]{0,300}#[^\"'<>\s]", re.I)
PERMALINK_SIGNS = ("#</", "¶", "§", "🔗", "\uf0c1", "&para;", "&#182;", "&#xb6;", "&sect;")
WORDS_AROUND_TIME = frozenset({"p", "li", "td", "th", "dd", "dt", "em", "b", "strong", "i", "blockquote"})
INLINE = frozenset(
    ["a", "abbr", "acronym", "b", "bdi", "bdo", "big", "br", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img",
     "ins", "kbd", "label", "mark", "math", "nobr", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time",
     "tt", "u", "var", "wbr"]
)  # fmt: skip
BLOCKS = ("p", "ul", "ol", "dl", "div", "blockquote", "pre", "h1", "h2", "h3", "h4", "h5", "h6")
COLUMN_CHARACTERS = 400
QUOTES = tuple("\"'“”„«»‹›‘’‚「『《〈")
REPEATED = re.compile("pull|embed|media|tweet|video", re.I)
ROWS = ("tbody", "thead", "tfoot", "tr")
ENDED = re.compile(r"[.,;:!?…。！？；।။៕]\s*\Z")
EMOJI = re.compile(
    "(?:[\u00a9\u00ae\u203c-\u3299#*0-9\ufe0f\u200d\u20e3]|[\U0001f000-\U0001faff]|[\U000e0020-\U000e007f]){1,24}"
)
TEX_PICTURE = re.compile(r"\b(?:latex|tex|math|mathtex|mwe-math-fallback-image-(?:inline|display))\b", re.I)
WRAPPED_TEX = re.compile(r"\A\{\\(?:display|text)style\s+(.*)\}\Z", re.S)
SPOKEN_TEX = re.compile(r"[\\^_={}]|\A[A-Za-z]\Z")


def without_permalinks(page: str) -> str:
    """A page without the signs that link a heading or paragraph to itself."""
    if not any(sign in page for sign in PERMALINK_SIGNS):
        return page
    return PERMALINK.sub(lambda link: "" if FRAGMENT.search(link[1]) else link[0], page)


def tex_shown(page: str) -> str:
    """A page in which the formulas are text that stand in scripts for MathJax."""
    return TEX_SCRIPT.sub(_tex_of_script, page) if "math/tex" in page else page


def _tex_of_script(script: re.Match[str]) -> str:
    data = CDATA.fullmatch(script[2].strip())
    tex = html_entities.unescape((data[1] if data else script[2]).strip())  # MathJax reads references too
    if len(tex) > LONGEST_TEX:
        return script[0]
    shown = html_entities.escape(_delimited(tex, block="display" in script[1]), quote=False)
    return f'<span class="{TEX_CLASS}">{shown}</span>' if tex else ""


def _delimited(tex: str, *, block: bool) -> str:
    return f"\\[{tex}\\]" if block else f"\\({tex}\\)"


def ready(tree: HtmlElement) -> None:
    """Change the tree where trafilatura would lose what is shown: what places first, then the rest from the inside out."""
    hidden = HIDDEN(tree)
    opened = set(" ".join(OPENED(tree)).split()) if hidden else set()
    for element in hidden:
        if element.tag not in ("html", "body", "head") and not (
            element.get("role") in PANELS or element.get("id") in opened
        ):
            _drop(element)
    for element in list(tree.iter("table")):
        _table(element)
    for element in reversed(list(tree.iter(*_CHANGES))):
        _CHANGES[element.tag](element)


def references_kept(tree: HtmlElement) -> None:
    """Text that reads like a reference, written so that resolving it gives this text."""
    for element in tree.iter(etree.Element):
        if element.text and "&" in element.text and element.tag not in ("script", "style"):
            element.text = _referring(element.text)
        if element.tail and "&" in element.tail:
            element.tail = _referring(element.tail)


def _referring(text: str) -> str:
    return text if html_entities.unescape(text) == text else text.replace("&", "&amp;")


def _drop(element: HtmlElement) -> None:
    if element.getparent() is not None:
        element.drop_tree()


def _template(element: HtmlElement) -> None:
    if not element.get("shadowrootmode"):
        _drop(element)


def _quoted(element: HtmlElement) -> None:
    """Marks of the author's own, before it or in it, are enough."""
    before = element.getprevious()
    text = element.getparent().text if before is None else before.tail
    if (text or "").rstrip().endswith(QUOTES) or element.text_content().lstrip().startswith(QUOTES):
        element.drop_tag()
        return
    inside = next(element.iterancestors("q"), None) is not None
    _with_marks(element, *("‘’" if inside else "“”"))


def _with_marks(element: HtmlElement, before: str, after: str) -> None:
    """Unwraps an element, its content between two marks."""
    element.text = before + (element.text or "")
    if len(element):
        element[-1].tail = (element[-1].tail or "").rstrip() + after
    else:
        element.text = element.text.rstrip() + after
    element.drop_tag()


def _time(element: HtmlElement) -> None:
    parent = element.getparent()
    if parent is not None and parent.tag in WORDS_AROUND_TIME:
        around = "".join([parent.text or "", *(child.tail or "" for child in parent)])
        if around.strip():
            element.tag = "span"


def _list(element: HtmlElement) -> None:
    if next(element.iterancestors("td", "th"), None) is None:
        return
    items = list(element.iterchildren("li", "dt", "dd"))
    for item in items:
        ended = item is items[-1] or ENDED.search(item.text_content())
        _with_marks(item, " ", " " if ended else "; ")
    element.drop_tag()


def _table(element: HtmlElement) -> None:
    """A table that only places: one filled cell a row, with blocks in it, or whole tables."""
    rows = [row for row in _rows(element) if len(row)]
    cells = [cell for row in rows for cell in row]
    places = (
        element.find(".//table") is not None
        or (
            all(sum(_filled(cell) for cell in row) <= 1 for row in rows)
            and any(next(cell.iter(*BLOCKS), None) is not None for cell in cells)
        )
        or (element.find(".//th") is None and any(_is_column(cell) for cell in cells))
    )
    if not places or element.find("caption") is not None:
        return
    for row in rows:
        for cell in row:
            if cell.tag in ("td", "th"):
                for part in (cell, *cell.iter("div", "center")):
                    _paragraphs(part)
                cell.tag = "div"
        row.tag = "div"
    for part in element.iterchildren(*ROWS):
        part.tag = "div"
    element.tag = "div"


def _is_column(cell: HtmlElement) -> bool:
    """Some blocks with text enough that it is no cell of a table."""
    return sum(1 for _ in cell.iterchildren(*BLOCKS)) > 1 and len(cell.text_content()) >= COLUMN_CHARACTERS


def _rows(table: HtmlElement) -> Iterator[HtmlElement]:
    for part in table:
        if part.tag == "tr":
            yield part
        elif part.tag in ROWS:
            yield from part.iterchildren("tr")


def _filled(cell: HtmlElement) -> bool:
    return bool(cell.text_content().strip())


def _paragraphs(cell: HtmlElement) -> None:
    """Loose text between blocks gets an element of its own."""
    run = None
    if cell.text and cell.text.strip():
        run = cell.makeelement("p")
        run.text, cell.text = cell.text, None
        cell.insert(0, run)
    for child in list(cell):
        if child is run:
            continue
        if child.tag in INLINE:
            if run is None:
                run = cell.makeelement("p")
                cell.insert(cell.index(child), run)
            run.append(child)
            continue
        run = None
        if child.tail and child.tail.strip():
            run = cell.makeelement("p")
            run.text, child.tail = child.tail, None
            child.addnext(run)


def _center(element: HtmlElement) -> None:
    """A block of the old web: trafilatura does not know it."""
    _paragraphs(element)
    element.tag = "div"


def _figure(element: HtmlElement) -> None:
    """Code and quotations; not those that repeat the text beside it, and what is embedded from elsewhere."""
    quotation = next(element.iter("blockquote"), None)
    classes = "" if quotation is None else f"{element.get('class', '')} {quotation.get('class', '')}"
    quoted = quotation is not None and not REPEATED.search(classes)
    if quoted or next(element.iter("pre", "math"), None) is not None:
        element.tag = "div"


def _footer(element: HtmlElement) -> None:
    """The source of a quotation."""
    if next(element.iterancestors("blockquote"), None) is not None:
        element.tag = "p"


def _button(element: HtmlElement) -> None:
    """A heading that opens what is under it."""
    heading = next(element.iterancestors(*HEADINGS), None)
    if heading is not None and heading.text_content().strip() == element.text_content().strip():
        element.tag = "span"


def _pre(element: HtmlElement) -> None:
    """Lines that are elements: each is shown on its own."""
    element.tag = "pre"
    for line in list(element.iter("div", "li", "p")):
        if line.getnext() is not None and not (line.tail or "").startswith(("\n", "\r")):
            line.tail = "\n" + (line.tail or "")
        line.drop_tag()


def _math(element: HtmlElement) -> None:
    """A formula is text: what it says is its TeX, else its MathML. Wikipedia does not display the element, but a picture."""
    parent = element.getparent()
    while parent is not None and parent.tag == "span":
        if "display" in parent.get("style", ""):
            del parent.attrib["style"]
        parent = parent.getparent()
    said = [each.text for each in element.iter("annotation") if "tex" in each.get("encoding", "").lower()]
    tex = WRAPPED_TEX.sub(r"\1", next(filter(None, [*said, element.get("alttext")]), "").strip())
    text = _delimited(tex, block=element.get("display") == "block") if tex else "".join(_linear(element).split())
    element.tail = text + (element.tail or "")
    _drop(element)


def _linear(element: HtmlElement) -> str:
    """MathML on one line: x^2, a_i, (a+b)/c, √x."""
    parts = [
        _linear(child) for child in element if isinstance(child.tag, str) and not child.tag.startswith("annotation")
    ]
    name = element.tag.rpartition(":")[2]
    if name == "mfrac" and len(parts) == 2:
        return f"{_grouped(parts[0])}/{_grouped(parts[1])}"
    if name in ("msup", "msub", "mover", "munder") and len(parts) == 2:
        return parts[0] + ("^" if name in ("msup", "mover") else "_") + _grouped(parts[1])
    if name in ("msubsup", "munderover") and len(parts) == 3:
        return f"{parts[0]}_{_grouped(parts[1])}^{_grouped(parts[2])}"
    if name == "msqrt":
        return "√" + _grouped("".join(parts))
    if name == "mtext":
        return (element.text or "").strip()
    return (element.text or "").strip() + "".join(parts)


def _grouped(part: str) -> str:
    return part if len(part) <= 1 or part.isalnum() else f"({part})"


def _img(element: HtmlElement) -> None:
    alt = (element.get("alt") or "").strip()
    if not alt or len(alt) > 2000:
        return
    names = f"{element.get('class', '')} {element.get('src', '')[:200]}"
    if EMOJI.fullmatch(alt) and not alt.isascii():
        text = alt
    elif TEX_PICTURE.search(names) and SPOKEN_TEX.search(alt) and _is_alone(element):
        text = _delimited(WRAPPED_TEX.sub(r"\1", alt.strip("$ ")), block=False)
    else:
        return
    element.tail = text + (element.tail or "")


def _is_alone(element: HtmlElement) -> bool:
    """Not the picture beside a formula that is there as MathML."""
    around = element.getparent()
    return around is None or around.find(".//math") is None


def _span(element: HtmlElement) -> None:
    """A formula of a script, which MathJax may have drawn before it."""
    while element.get("class") == TEX_CLASS and (drawn := element.getprevious()) is not None:
        if (drawn.tail or "").strip() or not re.search("MathJax|MJX", drawn.get("class", "")):
            break
        _drop(drawn)


_CHANGES: dict[str, Callable[[HtmlElement], None]] = {
    "template": _template,
    "q": _quoted,
    "time": _time,
    "ul": _list,
    "ol": _list,
    "dl": _list,
    "center": _center,
    "figure": _figure,
    "footer": _footer,
    "button": _button,
    "pre": _pre,
    "listing": _pre,
    "xmp": _pre,
    "math": _math,
    "img": _img,
    "span": _span,
}
