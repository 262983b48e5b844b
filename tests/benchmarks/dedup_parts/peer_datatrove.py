"""datatrove's four MinHash stages, in its own environment: ``peer_datatrove.py INPUT WORK``.

Two workers; the same n-grams, bands, rows and seed as ours. Prints one JSON line: seconds, and (removed, survivor) pairs,
the survivor being the document kept of the same cluster.
"""

import gzip
import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

WORKERS = 2


def main(source: str, work: Path) -> None:
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=1)
    folders = {name: str(work / name) for name in ("signatures", "buckets", "clusters", "kept", "removed")}
    files = len(list(Path(source).glob("*.jsonl*")))

    def run(pipeline: list, tasks: int, name: str) -> None:
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=WORKERS, logging_dir=str(work / "logs" / name)).run()

    started = time.perf_counter()
    run([JsonlReader(source), MinhashDedupSignature(folders["signatures"], config=config)], files, "1")
    run([MinhashDedupBuckets(folders["signatures"], folders["buckets"], config=config)], 14, "2")
    cluster = MinhashDedupCluster(folders["buckets"], folders["clusters"], config=config, save_cluster_id=True)
    run([cluster], 1, "3")
    writer = JsonlWriter(folders["removed"])
    keep = MinhashDedupFilter(folders["clusters"], exclusion_writer=writer, load_cluster_ids=True)
    run([JsonlReader(source), keep, JsonlWriter(folders["kept"])], files, "4")
    seconds = time.perf_counter() - started
    survivors = {
        row["metadata"]["minhash_cluster_id"]: row["id"] for row in _rows(Path(folders["kept"])) if _clustered(row)
    }
    # It does not mark every survivor with its cluster.
    removed = _rows(Path(folders["removed"]))
    pairs = [(row["id"], survivors.get(row["metadata"]["minhash_cluster_id"])) for row in removed]
    sys.stdout.write("\n" + json.dumps({"seconds": seconds, "pairs": pairs}) + "\n")


def _clustered(row: dict) -> bool:
    return row["metadata"].get("minhash_cluster_id", -1) != -1


def _rows(folder: Path) -> list[dict]:
    rows = []
    for path in sorted(folder.rglob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            rows += [json.loads(line) for line in lines]
    return rows


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
