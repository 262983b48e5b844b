"""A page's layout as a browser shows it, which its text would otherwise have from the source.

    white space    a run of it, line ends included, is one space, but where the page shows it as it is written
    tables         those that only place one cell are none

trafilatura keeps the source's line ends and indentation, by which a paragraph becomes lines that end anywhere, and writes
every table as rows with bars. Rules on lines then judge what no reader sees.
"""

import re

import numpy as np

from pipeline.extract.code_blocks import BEFORE, carried_code, is_code
from pipeline.kernels import kernel

# Where white space is shown as it is written. Code outside <pre> has a style sheet that says so, as a rule.
PRESERVED = re.compile(rb"<(pre|code|textarea|listing|xmp)\b", re.I)
STYLE = b"white-space"
PRESERVED_OR_STYLED = re.compile(
    PRESERVED.pattern + rb"|<[a-z]+\s[^<>]{0,500}" + STYLE + rb"\s*:\s*(?:pre|break-spaces)[^<>]*>", re.I
)
TABLE = re.compile(r"(?:^[ \t]*\|.*\|[ \t]*(?:\n|\Z))+", re.M)
CELL = re.compile(r"(?<!\\)\|")


def shown_spaces(html: bytes, *, fences: bool = False) -> bytes:
    """A page with its white space as a browser shows it: one space, whatever the width at which its source was wrapped.

    ``fences``: blocks of code are readied for ``fenced``.
    """
    preserved = PRESERVED_OR_STYLED if STYLE in html.lower() else PRESERVED
    array = np.frombuffer(html, np.uint8)
    pieces: list[bytes] = []
    position, unclosed = 0, set[bytes]()
    while opening := preserved.search(html, position):
        name, start = (opening[1] or b"").lower(), opening.start()
        end = -1 if name in unclosed else _preserved_end(html, opening)
        if end < 0:
            unclosed.add(name)
            end = opening.end()
        element = html[start:end]
        inner = element.lower().rfind(b"<pre", 1) if name == b"pre" else 0
        if inner > 0:  # columns of code: the inner ones are it
            pieces.append(_one_space(array[position : start + inner]).tobytes())
            position = start + inner
            continue
        if fences and name == b"pre" and is_code(html[max(0, start - BEFORE) : start], element):
            element = carried_code(element)
        elif fences and name == b"code" and b"\n" not in element:
            element = _inner(element)  # trafilatura gives it a line of its own
        pieces += [_one_space(array[position:start]).tobytes(), element]
        position = end
    return b"".join([*pieces, _one_space(array[position:]).tobytes()])


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


@kernel
def _one_space(data):  # type: ignore[no-untyped-def]  # compiled: types come from the call
    """Each run of white space as one space. A line break between wide letters is none: they are written without."""
    shown = np.empty(len(data), np.uint8)
    at = size = 0
    while at < len(data):
        begin = at
        broken = False
        while at < len(data) and (data[at] == 32 or 9 <= data[at] <= 13):
            broken |= data[at] == 10
            at += 1
        if at == begin:
            shown[size] = data[at]
            at += 1
            size += 1
        elif not (broken and _is_wide(data, begin - 3) and _is_wide(data, at)):
            shown[size] = 32
            size += 1
    return shown[:size]


@kernel
def _is_wide(data, at):  # type: ignore[no-untyped-def]
    """Whether a letter of East Asia begins here."""
    return 0 <= at < len(data) and 0xE3 <= data[at] <= 0xE9
