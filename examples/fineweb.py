"""FineWeb's recipe: ``python fineweb.py workspace [ingest.sources=… execution.workers=64 …]``."""

import sys
from pathlib import Path

import headwater

RECIPE = Path(__file__).with_suffix(".yaml")


def main(workspace: str, *overrides: str) -> headwater.Workspace:
    store = headwater.run(RECIPE, workspace=workspace, overrides=overrides)
    for stage in ("ingest", "quality", "dedup", "redact"):
        counts = store[stage].counts
        most = sorted(counts["dropped"].items(), key=lambda rule: -rule[1])[:5]
        print(f"{stage:<8} {counts['incoming']:>12,} in {counts['kept']:>12,} kept", *(f"{n} {r}" for r, n in most))
    return store


if __name__ == "__main__":  # worker processes import this file
    main(*sys.argv[1:])
