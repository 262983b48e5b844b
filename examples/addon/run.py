"""Run the recipe beside this file on some notes, and print what became of each: ``python run.py workspace [notes.md]``."""

import json
import sys
from pathlib import Path

import headwater

FOLDER = Path(__file__).parent


def main(workspace: str, notes: str = str(FOLDER / "notes.md")) -> headwater.Workspace:
    source = {
        "kind": "headwater_addon.notes:NOTES",
        "name": "notes",
        "address": notes,
        "profile": "none",
        "min_characters": 3,
    }
    store = headwater.run(
        FOLDER / "addon.yaml", workspace=workspace, overrides=[f"ingest.sources={json.dumps([source])}"]
    )
    for stage in ("ingest", "unbreak", "quality", "dedup"):
        for row in store[stage].ledger().read_all().to_pylist():
            print(f"{stage:<8} {row['verdict']} by {row['rule']}: {row['detail'] or row['score'] or ''}")
    for batch in store["dedup"].batches(["title", "text"]):
        for document in batch.to_pylist():
            print(f"{document['title']}: {document['text']!r}")
    return store


if __name__ == "__main__":  # worker processes import this file
    main(*sys.argv[1:])
