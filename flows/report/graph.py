"""The lineage as a drawing: a column for each distance from the sources, a line for each input.

A long chain is broken into bands, as text into lines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 128, 44, 36, 16, 8
BAND_COLUMNS, BAND_GAP = 6, 46
Place = tuple[int, int]
"""Column and row, before the columns are broken into bands."""


@dataclass(frozen=True)
class Node:
    """A dataset in the graph."""

    name: str
    note: str
    inputs: Sequence[str]
    kind: int = 0


def lineage_graph(nodes: Sequence[Node]) -> Markup:
    """Draw nodes given in an order where inputs come first; inputs that are not among them are left out."""
    if not nodes:
        return Markup("")
    known = {node.name for node in nodes}
    inputs = {node.name: [name for name in node.inputs if name in known] for node in nodes}
    places = _places(nodes, inputs)
    tops, height = _bands(places.values())
    columns = min(BAND_COLUMNS, max(column for column, _ in places.values()) + 1)
    width = MARGIN * 2 + columns * BOX_WIDTH + (columns - 1) * GAP_X
    corners = {name: _corner(place, tops) for name, place in places.items()}
    edges = "".join(
        _edge(corners[source], corners[node.name]) for node in nodes for source in _needed(node.name, inputs)
    )
    boxes = "".join(_box(node, corners[node.name]) for node in nodes)
    sentence = "; ".join(f"{node.name} from {', '.join(inputs[node.name]) or 'outside'}" for node in nodes)
    return Markup(
        f'<svg class="graph" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Lineage: {escape(sentence)}">{edges}{boxes}</svg>'
    )


def _needed(name: str, inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Inputs that are not inputs of another input too: the drawing shows the way, the table shows all."""
    return [source for source in inputs[name] if not any(_reaches(other, source, inputs) for other in inputs[name])]


def _reaches(start: str, target: str, inputs: Mapping[str, Sequence[str]]) -> bool:
    return any(source == target or _reaches(source, target, inputs) for source in inputs[start])


def _places(nodes: Sequence[Node], inputs: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    """Column: the longest way from a source. Row: the mean row of the inputs, moved down where it is taken."""
    column: dict[str, int] = {}
    row: dict[str, int] = {}
    taken: dict[int, set[int]] = {}
    for node in nodes:
        column[node.name] = 1 + max((column[source] for source in inputs[node.name]), default=-1)
        above = [row[source] for source in _needed(node.name, inputs)]
        wanted = round(sum(above) / len(above)) if above else 0
        used = taken.setdefault(column[node.name], set())
        while wanted in used:
            wanted += 1
        used.add(wanted)
        row[node.name] = wanted
    return {name: (column[name], row[name]) for name in column}


def _bands(places: Iterable[Place]) -> tuple[list[int], int]:
    """Where each band begins, and the height of all of them."""
    rows: dict[int, int] = {}
    for column, row in places:
        band = column // BAND_COLUMNS
        rows[band] = max(rows.get(band, 0), row + 1)
    tops, top = [], MARGIN
    for band in range(max(rows) + 1):
        tops.append(top)
        top += rows.get(band, 1) * (BOX_HEIGHT + GAP_Y) - GAP_Y + BAND_GAP
    return tops, top - BAND_GAP + MARGIN


def _corner(place: Place, tops: Sequence[int]) -> tuple[int, int]:
    column, row = place
    band, column = divmod(column, BAND_COLUMNS)
    return MARGIN + column * (BOX_WIDTH + GAP_X), tops[band] + row * (BOX_HEIGHT + GAP_Y)


def _edge(source: tuple[int, int], target: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = source, target
    if x2 > x1:
        x1, y1, y2 = x1 + BOX_WIDTH, y1 + BOX_HEIGHT // 2, y2 + BOX_HEIGHT // 2
        bend = max(GAP_X * 0.6, (x2 - x1) * 0.45)
        return f'<path class="edge" d="M{x1} {y1} C{x1 + bend:.1f} {y1} {x2 - bend:.1f} {y2} {x2} {y2}"/>'
    # On to a lower band: out below the one box, into the other from above.
    x1, x2, y1 = x1 + BOX_WIDTH // 2, x2 + BOX_WIDTH // 2, y1 + BOX_HEIGHT
    bend = max(BAND_GAP * 0.7, (y2 - y1) * 0.5)
    return f'<path class="edge" d="M{x1} {y1} C{x1} {y1 + bend:.1f} {x2} {y2 - bend:.1f} {x2} {y2}"/>'


def _box(node: Node, corner: tuple[int, int]) -> str:
    x, y = corner
    return (
        f'<g><rect class="box k{node.kind}" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>'
        f'<text class="box-name" x="{x + 12}" y="{y + 19}">{escape(node.name)}</text>'
        f'<text class="box-note" x="{x + 12}" y="{y + 34}">{escape(node.note)}</text></g>'
    )
