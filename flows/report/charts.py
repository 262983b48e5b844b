"""Small charts as inline SVG: lines, intervals, and the numbers of their axes.

Colours are classes (``c0`` … ``c5``) that the style sheet gives a value for light and for dark; every chart carries a
sentence for people who cannot see it. Text is escaped here, once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 40
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named line. ``colour`` numbers a colour of the style sheet; ``faint`` draws it as a background."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    faint: bool = False
    dots: bool = False


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
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    describe: str,
    levels: Sequence[Level] = (),
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
) -> Markup:
    """Lines over common axes, with a legend above. Empty if there is nothing to draw."""
    shown = [Series(s.name, _finite(s.points), s.colour, s.faint, s.dots) for s in series]
    shown = [s for s in shown if s.points]
    if not shown:
        return Markup("")
    across = Scale(*(x_range or _span([p[0] for s in shown for p in s.points], 0.0)), LEFT, WIDTH - RIGHT)
    heights = [p[1] for s in shown for p in s.points] + [level.value for level in levels]
    up = Scale(*(y_range or _span(heights, 0.06)), HEIGHT - BOTTOM, TOP)
    whole = all(float(p[0]).is_integer() for s in shown for p in s.points) and x_range is None
    parts = [_axes(across, up, x, y, whole)]
    for number, level in enumerate(levels):
        at = up(level.value)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        anchor, place = ("end", WIDTH - RIGHT - 4) if number % 2 == 0 else ("start", LEFT + 6)
        parts.append(
            f'<text class="level-name" x="{place}" y="{at - 5:.1f}" text-anchor="{anchor}">{escape(level.name)}</text>'
        )
    parts += [_line(s, across, up) for s in shown]
    svg = _svg(WIDTH, HEIGHT, "".join(parts), describe)
    return _legend([s for s in shown if not s.faint]) + svg


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
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis."""
    size = abs(value)
    if size >= 1e9:
        return f"{value / 1e9:g}B"
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}" if size >= 1e-4 or value == 0 else f"{value:.1e}"


def _axes(across: Scale, up: Scale, x: str, y: str, whole: bool) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in ticks(up.low, up.high):
        at = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in ticks(across.low, across.high, 7, smallest=1.0 if whole else 0.0):
        at = across(value)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis-name" x="{centre}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text class="axis-name" x="13" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 13 {middle})">{escape(y)}</text>'
    )
    return "".join(parts)


def _line(series: Series, across: Scale, up: Scale) -> str:
    places = [(across(x), up(y)) for x, y in thin(series.points)]
    path = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(places))
    kind = "line faint" if series.faint else "line"
    drawn = f'<path class="{kind} c{series.colour}" d="{path}"/>'
    if series.dots or len(places) == 1:
        for (x, y), (data_x, data_y) in zip(places, thin(series.points), strict=True):
            label = escape(f"{series.name}: {short(data_x)} → {data_y:.4g}")
            drawn += (
                f'<circle class="dot c{series.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{label}</title></circle>'
            )
    return drawn


def _legend(series: Sequence[Series]) -> Markup:
    items = "".join(f'<li><span class="swatch c{s.colour}"></span>{escape(s.name)}</li>' for s in series)
    return Markup(f'<ul class="legend">{items}</ul>')


def _svg(width: int, height: int, body: str, describe: str) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(describe)}">{body}</svg>'
    )


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    gap = (high - low) * margin
    return low - gap, high + gap


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
