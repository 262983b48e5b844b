"""The lineage as a drawing: a column for each distance from the sources, a line for each input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 44, 44, 18, 10


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
    columns = max(column for column, _ in places.values()) + 1
    rows = max(row for _, row in places.values()) + 1
    width = MARGIN * 2 + columns * BOX_WIDTH + (columns - 1) * GAP_X
    height = MARGIN * 2 + rows * (BOX_HEIGHT + GAP_Y) - GAP_Y
    edges = "".join(_edge(places[source], places[node.name]) for node in nodes for source in _needed(node.name, inputs))
    boxes = "".join(_box(node, places[node.name]) for node in nodes)
    sentence = "; ".join(f"{node.name} from {', '.join(inputs[node.name]) or 'outside'}" for node in nodes)
    return Markup(
        f'<svg class="graph" viewBox="0 0 {width} {height:.0f}" style="min-width:{width * 0.62:.0f}px" role="img" '
        f'aria-label="Lineage: {escape(sentence)}">{edges}{boxes}</svg>'
    )


def _needed(name: str, inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Inputs that are not inputs of another input too: the drawing shows the way, the table shows all."""
    return [source for source in inputs[name] if not any(_reaches(other, source, inputs) for other in inputs[name])]


def _reaches(start: str, target: str, inputs: Mapping[str, Sequence[str]]) -> bool:
    return any(source == target or _reaches(source, target, inputs) for source in inputs[start])


def _places(nodes: Sequence[Node], inputs: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, float]]:
    """Column: the longest way from a source. Row: the mean row of the inputs, moved down where it is taken."""
    column: dict[str, int] = {}
    row: dict[str, float] = {}
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


def _corner(place: tuple[int, float]) -> tuple[float, float]:
    return MARGIN + place[0] * (BOX_WIDTH + GAP_X), MARGIN + place[1] * (BOX_HEIGHT + GAP_Y)


def _edge(source: tuple[int, float], target: tuple[int, float]) -> str:
    x1, y1 = _corner(source)
    x2, y2 = _corner(target)
    x1, y1, y2 = x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2
    bend = max(GAP_X * 0.6, (x2 - x1) * 0.45)
    return f'<path class="edge" d="M{x1} {y1} C{x1 + bend:.1f} {y1} {x2 - bend:.1f} {y2} {x2} {y2}"/>'


def _box(node: Node, place: tuple[int, float]) -> str:
    x, y = _corner(place)
    return (
        f'<g><rect class="box k{node.kind}" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>'
        f'<text class="box-name" x="{x + 12}" y="{y + 19}">{escape(node.name)}</text>'
        f'<text class="box-note" x="{x + 12}" y="{y + 34}">{escape(node.note)}</text></g>'
    )
