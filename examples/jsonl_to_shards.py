"""My own JSONL to token shards: ``python jsonl_to_shards.py documents.jsonl workspace [dedup.threshold=0.7 …]``."""

import json
import sys
from pathlib import Path

import headwater

RECIPE = Path(__file__).with_suffix(".yaml")


def main(file: str, workspace: str, *overrides: str) -> headwater.Workspace:
    source = json.dumps([{"name": "mine", "kind": "jsonl", "address": file, "profile": "none"}])
    store = headwater.run(RECIPE, workspace=workspace, overrides=[f"ingest.sources={source}", *overrides])
    shards = store["shards"].shards()
    tokenizer = headwater.tokenizer(store["tokenizer"])
    print(f"documents: {store['dedup'].counts}")
    print(f"{len(shards):,} rows of {shards.seq_len} tokens; the first one begins:")
    print(f"  {tokenizer.decode(shards.tokens(0)[:30])!r}")
    print(f"and comes from {shards.documents(0)[0].archive}, byte {shards.documents(0)[0].archive_offset:,}")
    return store


if __name__ == "__main__":  # worker processes import this file
    main(*sys.argv[1:])
