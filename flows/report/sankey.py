"""The funnel as a Sankey diagram: its width is the number of documents, its colours are the sources, and at every stage
what was dropped branches off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

STAGE_WIDTH, TOP, DEPTH = 168, 46, 210
BRANCH = 96
BOTTOM = 78


@dataclass(frozen=True)
class SankeyStage:
    """A stage in the diagram. ``incoming`` and ``kept`` are by source, in a common order."""

    name: str
    incoming: dict[str, int]
    kept: dict[str, int]
    top_rule: str = ""

    @property
    def arrived(self) -> int:
        return sum(self.incoming.values())

    @property
    def stayed(self) -> int:
        return sum(self.kept.values())


def sankey(sankey_stages: Sequence[SankeyStage], colours: Mapping[str, str]) -> Markup:
    """The drawing, from left to right. Empty without documents."""
    most = max((stage.arrived for stage in sankey_stages), default=0)
    if most == 0:
        return Markup("")
    scale = DEPTH / most
    width = STAGE_WIDTH * len(sankey_stages) + 74
    parts = [_gradient()]
    for index, stage in enumerate(sankey_stages):
        x = 8 + index * STAGE_WIDTH
        parts.append(_branch(stage, x, scale))
        parts.append(_stream(stage, x, scale, colours))
        parts.append(_node(stage, x, scale))
    end = 8 + len(sankey_stages) * STAGE_WIDTH
    last = sankey_stages[-1]
    parts.append(
        f'<text class="sankey-end" x="{end + 6}" y="{TOP + max(last.stayed * scale / 2, 6):.1f}">'
        f"{last.stayed:,}</text>"
        f'<text class="sankey-note" x="{end + 6}" y="{TOP + max(last.stayed * scale / 2, 6) + 15:.1f}">kept</text>'
    )
    sentence = "Documents by stage: " + "; ".join(
        f"{s.name} {s.arrived:,} in, {s.stayed:,} kept" for s in sankey_stages
    )
    height = TOP + DEPTH + BOTTOM
    return Markup(
        f'<svg class="sankey" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(sentence)}">{"".join(parts)}</svg>'
    )


def _gradient() -> str:
    return (
        '<defs><linearGradient id="fade" x1="0" x2="1" y1="0" y2="0">'
        '<stop offset="0" class="fade-start"/><stop offset="1" class="fade-end"/></linearGradient></defs>'
    )


def _stream(stage: SankeyStage, x: float, scale: float, colours: Mapping[str, str]) -> str:
    """What goes on, one band a source, on top of what branches off."""
    drawn, top = "", float(TOP)
    end = x + STAGE_WIDTH
    for source, number in stage.kept.items():
        height = number * scale
        if number:
            drawn += (
                f'<path class="band {colours[source]}" '
                f'd="M{x + 10:.1f} {top:.2f} H{end:.1f} V{top + height:.2f} H{x + 10:.1f}Z">'
                f"<title>{escape(source)}: {number:,} of {stage.incoming.get(source, 0):,} kept</title></path>"
            )
        top += height
    return drawn


def _branch(stage: SankeyStage, x: float, scale: float) -> str:
    gone = stage.arrived - stage.stayed
    if not gone:
        return ""
    start, height = TOP + stage.stayed * scale, max(gone * scale, 1.5)
    fall, begin, end = 34, x + 10, x + 10 + BRANCH
    bend = begin + BRANCH * 0.55
    foot = start + height + fall + 17
    rule = f'<text class="sankey-rule" x="{begin + 8}" y="{foot + 15:.1f}">{escape(stage.top_rule)}</text>'
    return (
        f'<path class="gone" d="M{begin} {start:.2f} C{bend:.1f} {start:.2f} {bend:.1f} {start + fall:.2f} {end} '
        f"{start + fall:.2f} V{start + fall + height:.2f} C{bend:.1f} {start + fall + height:.2f} {bend:.1f} "
        f'{start + height:.2f} {begin} {start + height:.2f}Z"><title>{gone:,} dropped or failed</title></path>'
        f'<text class="sankey-gone" x="{begin + 8}" y="{foot:.1f}">−{gone:,}</text>{rule if stage.top_rule else ""}'
    )


def _node(stage: SankeyStage, x: float, scale: float) -> str:
    height = max(stage.arrived * scale, 2)
    share = stage.stayed / stage.arrived if stage.arrived else 0
    return (
        f'<rect class="node" x="{x}" y="{TOP}" width="10" height="{height:.1f}" rx="2"/>'
        f'<text class="sankey-name" x="{x}" y="{TOP - 25}">{escape(stage.name)}</text>'
        f'<text class="sankey-note" x="{x}" y="{TOP - 10}">{stage.arrived:,} in · {share:.0%} kept</text>'
    )
