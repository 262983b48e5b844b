"""Small charts as inline SVG: lines, bars, intervals, and the numbers of their axes.

Colours are classes that the style sheet gives a value for light and for dark. ``c0`` … ``c11`` are sources, each of which
keeps its own on the whole page (``colours_of``); when there are more sources than colours, the last of them share the grey
of ``rest``, never another's colour. ``m0`` … ``m4`` are for whatever is no source. Every chart carries its figures in words
for people who cannot see it, and shows the values below the pointer without any script. Text is escaped here, once.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 12, 42
COLOURS = 12
REST = "rest"
STRIPS = 60
"""Places along a chart where a pointer finds its values."""
STANDALONE = (
    "<style>text { font: 11px sans-serif; fill: #5b6b7b } .grid { stroke: #e3e8ee } .axis { stroke: #8896a5 }"
    " .line { fill: none; stroke-width: 2 } .line.dashed { stroke-dasharray: 6 4 }"
    " .line.m0 { stroke: #1d4ed8 } .dot.m0 { fill: #1d4ed8 } .line.m1 { stroke: #c2410c } .dot.m1 { fill: #c2410c }</style>"
)
Point = tuple[float, float]


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, the first ones' all different."""
    unique = list(dict.fromkeys(names))
    own = COLOURS if len(unique) <= COLOURS else COLOURS - 1
    return {name: f"c{index}" if index < own else REST for index, name in enumerate(unique)}


@dataclass(frozen=True)
class Line:
    """A named line. ``colour`` is a class of the style sheet; ``faint`` draws it as a background, ``dashed`` as another run's."""

    name: str
    points: Sequence[Point]
    colour: str = "m0"
    faint: bool = False
    dots: bool = False
    dashed: bool = False
    scattered: bool = False
    """Dots without a line between them."""
    sizes: Sequence[float] = ()
    """The dots' radii, where they differ."""
    band: Sequence[tuple[float, float, float]] = ()
    """(x, least, most): the ground behind the line, of what it is the mean of."""


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    name: str
    value: float


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    series: Sequence[Line],
    *,
    x: str,
    y: str,
    describe: str,
    levels: Sequence[Level] = (),
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    powers: bool = False,
    alone: bool = False,
) -> Markup:
    """Lines over common axes, with a legend above. Empty if there is nothing to draw.

    ``powers``: x holds decimal logarithms. ``alone``: an SVG file of its own, in which names stand beside the lines' ends.
    """
    shown = [replace(s, points=_finite(s.points)) for s in series]
    shown = [s for s in shown if s.points]
    if not shown:
        return Markup("")
    across = Scale(*(x_range or _span([p[0] for s in shown for p in s.points], 0.0)), LEFT, WIDTH - RIGHT)
    heights = [p[1] for s in shown for p in s.points] + [level.value for level in levels]
    heights += [end for s in shown for _, *ends in s.band for end in ends if math.isfinite(end)]
    up = Scale(*(y_range or _span(heights, 0.06)), HEIGHT - BOTTOM, TOP)
    whole = all(float(p[0]).is_integer() for s in shown for p in s.points) and x_range is None
    parts = [STANDALONE if alone else "", _axes(across, up, x, y, whole, powers)]
    for number, level in enumerate(levels):
        at = up(level.value)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        anchor, place = ("end", WIDTH - RIGHT - 4) if number % 2 == 0 else ("start", LEFT + 6)
        parts.append(
            f'<text class="level-name" x="{place}" y="{at - 5:.1f}" text-anchor="{anchor}">{escape(level.name)}</text>'
        )
    parts += [_ground(s, across, up) for s in shown if s.band]
    parts += [_line(s, across, up) for s in shown]
    named = [s for s in shown if not s.faint]
    if alone:
        parts += [_end_name(s, across, up) for s in named]
        return _svg(WIDTH, HEIGHT, "".join(parts), f"{describe}. {_in_words(named, x)}")
    parts.append(_strips(named, across, x))
    svg = _svg(WIDTH, HEIGHT, "".join(parts), f"{describe}. {_in_words(named, x)}")
    return _legend([(s.name, s.colour, s.dashed) for s in named]) + svg


def _end_name(series: "Line", across: Scale, up: Scale) -> str:
    x, y = series.points[-1]
    return (
        f'<text class="tick" x="{across(x) - 4:.1f}" y="{up(y) - 8:.1f}" text-anchor="end">{escape(series.name)}</text>'
    )


@dataclass(frozen=True)
class Bars:
    """Numbers by bin of one group; bars of several groups stand on each other."""

    name: str
    numbers: Sequence[float]
    colour: str = "c0"


@dataclass(frozen=True)
class Threshold:
    """A vertical line, and on which side of it documents are dropped."""

    name: str
    value: float
    drops_below: bool


def histogram(
    edges: Sequence[float],
    groups: Sequence[Bars],
    *,
    x: str,
    y: str,
    describe: str,
    thresholds: Sequence[Threshold] = (),
    logarithmic: bool = False,
) -> Markup:
    """Stacked bars between edges, with thresholds across them. Empty if there is nothing to draw."""
    groups = [group for group in groups if sum(group.numbers)]
    if not groups:
        return Markup("")
    place: Callable[[float], float] = math.log10 if logarithmic else float
    across = Scale(place(edges[0]), place(edges[-1]), LEFT, WIDTH - RIGHT)
    totals = [sum(group.numbers[index] for group in groups) for index in range(len(edges) - 1)]
    up = Scale(0.0, max(totals) * 1.06, HEIGHT - BOTTOM, TOP)
    parts = [_axes(across, up, x, y, whole=False, logarithmic=logarithmic)]
    for index in range(len(edges) - 1):
        start, end = across(place(edges[index])), across(place(edges[index + 1]))
        parts.append(_stack(groups, index, start, end, up, f"{short(edges[index])} to {short(edges[index + 1])}"))
    parts += [_threshold(each, across, place, number) for number, each in enumerate(thresholds)]
    words = "; ".join(f"{group.name}: {sum(group.numbers):,.0f}" for group in groups)
    words += "".join(f"; {each.name} {short(each.value)}" for each in thresholds)
    svg = _svg(WIDTH, HEIGHT, "".join(parts), f"{describe}. {words}")
    return _legend([(group.name, group.colour, False) for group in groups]) + svg


def _stack(groups: Sequence[Bars], index: int, start: float, end: float, up: Scale, where: str) -> str:
    """The bars of one bin, with one label for all of them."""
    drawn, below, told = "", 0.0, []
    for group in groups:
        number = group.numbers[index]
        if number:
            top, bottom = up(below + number), up(below)
            drawn += (
                f'<rect class="bin {group.colour}" x="{start + 0.5:.1f}" y="{top:.1f}" '
                f'width="{max(end - start - 1, 0.5):.1f}" height="{bottom - top:.1f}"/>'
            )
            told.append(f"{group.name} {number:,.0f}")
            below += number
    return f"<g>{drawn}<title>{escape(where)}: {escape(', '.join(told))}</title></g>" if drawn else ""


def _threshold(threshold: Threshold, across: Scale, place: Callable[[float], float], number: int) -> str:
    shown = threshold.value > 0 or place is not math.log10
    if not shown or not across.low <= place(threshold.value) <= across.high:
        return ""
    at, bottom = across(place(threshold.value)), HEIGHT - BOTTOM
    anchor, shift = ("end", -5) if at > (LEFT + WIDTH - RIGHT) / 2 else ("start", 5)  # where there is more room
    side = "below" if threshold.drops_below else "above"
    return (
        f'<line class="level" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="level-name" x="{at + shift:.1f}" y="{TOP + 12 + 17 * (number % 4)}" text-anchor="{anchor}">'
        f"{escape(threshold.name)}<title>{escape(threshold.name)}: dropped {side} {short(threshold.value)}</title></text>"
    )


def interval_bar(value: float, low: float, high: float, span: tuple[float, float], mark: float | None = None) -> Markup:
    """One figure with its interval on a common scale; ``mark`` is a value to compare with."""
    width, height = 180, 22
    across = Scale(*span, 6, width - 6)
    middle = height / 2
    parts = [f'<line class="track" x1="6" x2="{width - 6}" y1="{middle}" y2="{middle}"/>']
    if mark is not None and span[0] <= mark <= span[1]:
        at = across(mark)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="3" y2="{height - 3}"/>')
    start, end = across(low), across(high)
    parts.append(f'<line class="whisker" x1="{start:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="estimate" cx="{across(value):.1f}" cy="{middle}" r="4"/>')
    text = f"{value:.3f}, between {low:.3f} and {high:.3f}"
    return Markup(
        f'<svg class="interval" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{text}"><title>{text}</title>{"".join(parts)}</svg>'
    )


def smooth(points: Sequence[Point]) -> list[Point]:
    """An exponential moving average over about a fiftieth of the curve, unbiased at its start."""
    weight = 1 - 1 / max(2.0, len(points) / 50)
    found: list[Point] = []
    total = mass = 0.0
    for x, y in points:
        if math.isfinite(y):
            total, mass = weight * total + (1 - weight) * y, weight * mass + (1 - weight)
            found.append((x, total / mass))
    return found


def thin(points: Sequence[Point], most: int = 600) -> list[Point]:
    """At most ``most`` points, evenly chosen, the last included: a page must not grow with a run's length."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(index * step)] for index in range(most)]


def ticks(low: float, high: float, about: int = 5, smallest: float = 0.0) -> list[float]:
    """Round numbers between two values, at least ``smallest`` apart."""
    raw = max((high - low) / about, smallest)
    power = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if smallest and power == 1 else (1, 2, 2.5, 5, 10)  # of whole numbers there is no half
    step = next(factor * power for factor in factors if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis."""
    size = abs(value)
    if size >= 1e12:
        return f"{value:.0e}"
    if size >= 1e9:
        return f"{value / 1e9:g}B"
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}" if size >= 1e-4 or value == 0 else f"{value:.1e}"


def _axes(across: Scale, up: Scale, x: str, y: str, whole: bool, logarithmic: bool = False) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in ticks(up.low, up.high):
        at = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in ticks(across.low, across.high, 7, smallest=1.0 if whole or logarithmic else 0.0):
        at, shown = across(value), 10**value if logarithmic else value
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{short(shown)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis-name" x="{centre}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text class="axis-name" x="14" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle})">{escape(y)}</text>'
    )
    return "".join(parts)


def _ground(series: Line, across: Scale, up: Scale) -> str:
    places = sorted(thin([(x, 0.0) for x, *_ in series.band]))
    ends = {x: (low, high) for x, low, high in series.band if math.isfinite(low) and math.isfinite(high)}
    kept = [x for x, _ in places if x in ends]
    below = [f"{across(x):.1f} {up(ends[x][0]):.1f}" for x in kept]
    above = [f"{across(x):.1f} {up(ends[x][1]):.1f}" for x in reversed(kept)]
    return f'<path class="ground {series.colour}" d="M{" L".join([*below, *above])}Z"/>' if kept else ""


def _line(series: Line, across: Scale, up: Scale) -> str:
    places = [(across(x), up(y)) for x, y in thin(series.points)]
    path = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(places))
    kind = "line" + " faint" * series.faint + " dashed" * series.dashed
    drawn = "" if series.scattered else f'<path class="{kind} {series.colour}" d="{path}"/>'
    if series.dots or len(places) == 1:
        for index, ((x, y), (data_x, data_y)) in enumerate(zip(places, thin(series.points), strict=True)):
            radius = series.sizes[index] if series.sizes else 3
            label = escape(f"{series.name}: {short(data_x)} → {data_y:.4g}")
            drawn += (
                f'<circle class="dot {series.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.3g}">'
                f"<title>{label}</title></circle>"
            )
    return drawn


def _strips(series: Sequence[Line], across: Scale, x: str) -> str:
    """Columns that show the values of all lines below the pointer."""
    places = sorted({point[0] for each in series for point in each.points})
    if len(places) < 3:
        return ""  # dots tell their own values
    chosen = [place for place, _ in thin([(place, 0.0) for place in places], STRIPS)]
    parts = []
    for index, place in enumerate(chosen):
        start = LEFT if index == 0 else (across(chosen[index - 1]) + across(place)) / 2
        end = WIDTH - RIGHT if index == len(chosen) - 1 else (across(place) + across(chosen[index + 1])) / 2
        told = "".join(
            f"\n{each.name}: {value:.4g}" for each in series if (value := _nearest(each.points, place)) is not None
        )
        parts.append(
            f'<rect class="strip" x="{start:.1f}" y="{TOP}" width="{max(end - start, 0.1):.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}"><title>{escape(f"{x} {short(place)}{told}")}</title></rect>'
        )
    return "".join(parts)


def _nearest(points: Sequence[Point], place: float) -> float | None:
    """The value at the point next to a place, if the line reaches so far."""
    if not points[0][0] <= place <= points[-1][0]:
        return None
    index = bisect_left(points, place, key=lambda point: point[0])
    return min(points[max(index - 1, 0) : index + 1], key=lambda point: abs(point[0] - place))[1]


def _in_words(series: Sequence[Line], x: str) -> str:
    """The ends and the extremes of each line, for a reader who hears the chart."""
    told = []
    for each in series:
        (first, begin), (last, end) = each.points[0], each.points[-1]
        values = [value for _, value in each.points]
        told.append(
            f"{each.name}: {begin:.4g} at {x} {short(first)}, {end:.4g} at {x} {short(last)}, "
            f"between {min(values):.4g} and {max(values):.4g}"
        )
    return "; ".join(told)


def _legend(entries: Sequence[tuple[str, str, bool]]) -> Markup:
    items = "".join(
        f'<li><span class="swatch {colour}{" dashed" if dashed else ""}"></span>{escape(name)}</li>'
        for name, colour, dashed in entries
    )
    return Markup(f'<ul class="legend">{items}</ul>')


def _svg(width: int, height: int, body: str, describe: str) -> Markup:
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(describe)}">{body}</svg>'
    )


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    gap = (high - low) * margin
    return low - gap, high + gap


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
