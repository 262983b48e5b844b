"""Jupyter notebooks as text: their cells in order, each under a mark, as ``jupytext`` and editors write them.

    # %%                  code as it is; ``# %% [markdown]``: prose as comments of the notebook's language

Outputs, which are no one's writing, and attachments are left out.
"""

import json
from typing import Any

NOTEBOOK = "Jupyter Notebook"
SLASHES = frozenset(
    [
        "javascript",
        "typescript",
        "java",
        "scala",
        "kotlin",
        "groovy",
        "go",
        "rust",
        "c++",
        "c",
        "c#",
        "f#",
        "swift",
        "dart",
    ]
)


def notebook_text(raw: str) -> str | None:
    """None for what is no notebook."""
    try:
        notebook = json.loads(raw)
        cells = _cells(notebook)
        language = str(
            _path(notebook, "metadata", "language_info", "name")
            or _path(notebook, "metadata", "kernelspec", "language")
        )
    except (ValueError, RecursionError):
        return None
    if cells is None:
        return None
    comment = "//" if language.lower().strip("0123456789. ") in SLASHES else "#"
    parts = [text for cell in cells if isinstance(cell, dict) and (text := _cell(cell, comment))]
    return "\n\n".join(parts) + "\n" if parts else ""


def _cells(notebook: Any) -> list[Any] | None:
    """Of format 4; of formats 2 and 3, in their work sheets."""
    if not isinstance(notebook, dict):
        return None
    sheets = notebook.get("worksheets")
    holders = sheets if isinstance(sheets, list) else [notebook]
    found: list[Any] = []
    for holder in holders:
        cells = _path(holder, "cells")
        if not isinstance(cells, list):
            return None
        found += cells
    return found


def _cell(cell: dict[str, Any], comment: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = "".join(map(str, source)) if isinstance(source, list) else source if isinstance(source, str) else ""
    text = text.replace("\r\n", "\n").rstrip()
    if not text.strip():
        return ""
    if cell.get("cell_type") == "code":
        return f"{comment} %%\n{text}"
    lines = [f"{comment} {line}".rstrip() for line in text.split("\n")]
    kind = "raw" if cell.get("cell_type") == "raw" else "markdown"
    return "\n".join([f"{comment} %% [{kind}]", *lines])


def _path(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
