"""The curves of docs/alignment, from runs in a workspace: ``python -m tests.alignment.curves WORKSPACE [NAME…]``.

A name is a stage's; or ``judge``, which is drawn from what ``headwater judge … --json`` said: ``WORKSPACE/judge.json``; or
``online``, the rounds ``dpo`` and ``dpo_2`` one after the other.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infra.store.store import Store
from tests.support import REPOSITORY
from training.intervals import mean_interval

CURVES: Mapping[str, Sequence[str]] = {
    "sft": ("loss", "grad_norm"),
    "reward": ("loss", "accuracy"),
    "dpo": ("preference_loss", "margin", "accuracy"),
    "ppo": ("reward", "kl", "finished"),
    "grpo": ("solved", "teaching_groups", "entropy"),
    "online": ("preference_loss", "margin", "accuracy"),
    "judge": ("win rate", "undecided", "half of the interval"),
}
ROUNDS = ("dpo", "dpo_2")
WIDTH, HEIGHT, LEFT, TOP = 270, 170, 50, 26
Point = tuple[float, float]


def panel(place: int, name: str, points: Sequence[Point]) -> str:
    """One figure over the steps, its axes named by their ends."""
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    across, up = WIDTH - LEFT - 12, HEIGHT - TOP - 26

    def at(step: float, value: float) -> tuple[float, float]:
        return LEFT + across * (step - first) / ((last - first) or 1), TOP + up * (1 - (value - low) / span)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in (at(*point) for point in points[:40]))
    marks = dots if len(points) < 20 else ""
    return (
        f'<g transform="translate({place * WIDTH},0)" fill="#4269d0"><text class="t" x="{LEFT}" y="16">{name}</text>'
        f'<path d="M{LEFT} {TOP}V{TOP + up}H{LEFT + across}" stroke="#999" fill="none"/>'
        f'<text class="e" x="{LEFT - 4}" y="{TOP + 8}">{high:.2f}</text>'
        f'<text class="e" x="{LEFT - 4}" y="{TOP + up}">{low + 0.0:.2f}</text>'
        f'<text class="t" x="{LEFT}" y="{HEIGHT - 8}">step {first:.0f}</text>'
        f'<text class="e" x="{LEFT + across}" y="{HEIGHT - 8}">{last:.0f}</text>'
        f'<polyline points="{line}" stroke="#4269d0" stroke-width="1.5" fill="none"/>{marks}</g>'
    )


def drawn(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The figures side by side."""
    points = {name: [(float(line["step"]), float(line[name])) for line in lines if name in line] for name in names}
    panels = [panel(place, name, found) for place, (name, found) in enumerate(points.items()) if found]
    style = "text{font:12px sans-serif;fill:#777}.e{text-anchor:end}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{HEIGHT}" role="img">'
        f"<style>{style}</style>{''.join(panels)}</svg>\n"
    )


def lines_of(name: str, workspace: Path) -> list[dict[str, Any]]:
    """What is drawn: logged steps, or verdicts of the first so many prompts."""
    if name == "judge":
        return judged(json.loads((workspace / "judge.json").read_text())["outcomes"])
    found: list[dict[str, Any]] = []
    for stage in ROUNDS if name == "online" else (name,):
        logged = Store.at(workspace).resolve(stage).local("data/metrics.jsonl").read_text()
        before = found[-1]["step"] + 1 if found else 0
        found += [line | {"step": line["step"] + before} for line in map(json.loads, logged.splitlines())]
    return found


def judged(outcomes: Sequence[str]) -> list[dict[str, Any]]:
    """Of the first ten prompts, the first eleven, …"""
    points = np.array([{"left": 1.0, "right": 0.0}.get(outcome, 0.5) for outcome in outcomes])
    found = []
    for number in range(10, len(points) + 1):
        seen = mean_interval(points[:number], 0)
        undecided = float((points[:number] == 0.5).mean())
        half = (seen.high - seen.low) / 2
        found.append({"step": number, "win rate": seen.value, "undecided": undecided, "half of the interval": half})
    return found


def main() -> None:
    workspace = Path(sys.argv[1])
    for name in sys.argv[2:] or CURVES:
        path = REPOSITORY / f"docs/images/{name}.svg"
        path.write_text(drawn(lines_of(name, workspace), CURVES[name]))
        sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
