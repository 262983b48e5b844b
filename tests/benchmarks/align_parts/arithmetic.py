"""The recipe ``arithmetic`` with several seeds: what GRPO makes of a model that a careless teacher fine-tuned.

Sums are divided once; seeds change the model's first weights, the order of what it reads, and what it tries.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY

SEEDED = ("pretrain", "sft", "grpo")


def learned(workspace: Path, seeds: int) -> list[dict[str, Any]]:
    """One row a seed: share of held-out sums answered right before and after, seconds of the stage."""
    return [_run(workspace, seed) for seed in range(seeds)]


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The least favourable of the seeds."""
    return {
        "grpo_before": max(row["before"] for row in rows),
        "grpo_after": min(row["after"] for row in rows),
        "grpo_seconds": max(row["seconds"] for row in rows),
    }


def _run(workspace: Path, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "headwater", "run", "arithmetic", "--workspace", str(workspace)]
    command += ["--stop-after", "grpo", *(part for name in SEEDED for part in ("--set", f"{name}.seed={seed}"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(f"the recipe ended with exit code {done.returncode}: {done.stderr[-3000:]}")
    published = workspace / "datasets" / "grpo"
    folder = max((each for each in published.iterdir() if (each / "manifest.json").exists()), key=_published)
    said = json.loads((folder / "data" / "grpo.json").read_text())
    return {"case": f"arithmetic, seed {seed}", **{side: said[side]["solved"]["value"] for side in ("before", "after")},
            "seconds": _seconds(folder)}  # fmt: skip


def _published(folder: Path) -> float:
    return (folder / "manifest.json").stat().st_mtime


def _seconds(folder: Path) -> float:
    made = json.loads((folder / "manifest.json").read_text())["provenance"]
    return float(made["ended"] - made["started"])
