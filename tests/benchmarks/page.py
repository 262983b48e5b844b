"""``docs/benchmarks.md``: one section a benchmark, written by the benchmark's own run."""

import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"
HEAD = "# Benchmarks\n\nEach section is written by the command it names, at its last run with all peers.\n"


def write_section(name: str, command: str, tables: Iterable[str], page: Path = PAGE, machine: str = "") -> None:
    """Replace the benchmark's section, or add it. ``machine``: when and where it was measured, if not here and now."""
    begin, end = f"<!-- bench {name} -->", f"<!-- end of bench {name} -->"
    made = f"`{command}`, {machine or this_machine()}."
    section = "\n\n".join([begin, f"## {name}", made, *tables, end]) + "\n"
    text = page.read_text(encoding="utf-8") if page.exists() else HEAD
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2].lstrip("\n") if found else ""
    parts = [before.rstrip("\n") + "\n", section, after]
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def this_machine() -> str:
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[1]
    return (
        f"{time.strftime('%Y-%m-%d')}, {cores} cores ({platform.machine()}), Python {platform.python_version()}; "
        f"the machine's load over the last five minutes was {load:.1f}"
    )


def table(headings: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table; a row that lacks a heading's value has an empty cell."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(_cell(row.get(heading)) for heading in headings) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
