"""Which checkpoints lie in a folder: asked by readers of a workspace too, which have no torch."""

import re
from pathlib import Path


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, oldest first."""
    found = []
    for path in folder.glob("step-*"):
        if match := re.fullmatch(r"step-(\d{8,})", path.name):
            found.append((int(match.group(1)), path))
    return sorted(found)
