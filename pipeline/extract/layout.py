"""A page's layout as a browser shows it, which its text would otherwise have from the source.

    white space    a run of it, line ends included, is one space, but where the page shows it as it is written
    tables         those that only place one cell are none

trafilatura keeps the source's line ends and indentation, by which a paragraph becomes lines that end anywhere, and writes
every table as rows with bars. Rules on lines then judge what no reader sees.
"""

import re

from pipeline.extract.code_blocks import BEFORE, carried_code, is_code

# Where white space is shown as it is written. Code outside <pre> has a style sheet that says so, as a rule.
PRESERVED = re.compile(
    rb"<(pre|code|textarea|listing|xmp)\b|<[a-z]+\s[^<>]{0,500}white-space\s*:\s*(?:pre|break-spaces)[^<>]*>", re.I
)
# A line break between wide letters is none: they are written without spaces.
WIDE = re.compile(rb"[\xe3-\xe9]")
WIDE_BREAK = re.compile(rb"(?<=[\xe3-\xe9][\x80-\xbf]{2})[ \t\r]*\n\s*(?=[\xe3-\xe9])")
TABLE = re.compile(r"(?:^[ \t]*\|.*\|[ \t]*(?:\n|\Z))+", re.M)
CELL = re.compile(r"(?<!\\)\|")


def shown_spaces(html: bytes, *, fences: bool = False) -> bytes:
    """A page with its white space as a browser shows it: one space, whatever the width at which its source was wrapped.

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
    """An extractor's text in which rows without content are gone, and tables are no tables that only place one cell."""
    return TABLE.sub(_table, text) if "|" in text else text


def _table(found: re.Match[str]) -> str:
    rows = [(line, [cell.strip() for cell in CELL.split(line.strip()[1:-1])]) for line in found[0].splitlines()]
    rows = [(line, [cell for cell in cells if cell]) for line, cells in rows]
    if all(len(cells) <= 1 or set("".join(cells)) <= {"-"} for _, cells in rows):
        rows = [(cells[0].replace("\\|", "|"), cells) for _, cells in rows if cells and set(cells[0]) != {"-"}]
    return "".join(line + "\n" for line, cells in rows if cells)


def _inner(element: bytes) -> bytes:
    return element[element.find(b">") + 1 : element.rfind(b"</")] if b">" in element else element


def _one_space(html: bytes, wide: bool) -> bytes:
    html = WIDE_BREAK.sub(b"", html) if wide else html
    words = b" ".join(html.split())
    return b" " * html[:1].isspace() + words + b" " * (bool(words) and html[-1:].isspace())
