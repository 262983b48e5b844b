"""Signatures on one thread: ours, and rensa fed with the same shingles: ``python -m … INPUT [RENSA]``.

``RENSA`` is the folder rensa was installed in. It is given the hashes of our shingling in the form it is fastest with,
one flat buffer of 64-bit hashes and the offsets of the rows.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.dedup import DedupConfig
from pipeline.dedup.sign import Signer
from tests.benchmarks.dedup_parts.peer_datasketch import rows

REPEAT = 7


def best(work: Callable[[], Any]) -> float:
    """The fastest of several runs, after one to warm up."""
    work()
    times = []
    for _ in range(REPEAT):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main(folder: str, rensa_folder: str = "") -> None:
    encoded = [text.encode() for _, text in rows(folder)]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in encoded])]).astype(np.int64)
    signer = Signer.create(DedupConfig())
    answer: dict[str, float] = {"documents": len(encoded)}
    answer["shingling"] = best(lambda: signer.shingles(data, offsets))
    answer["ours"] = best(lambda: signer.signatures(*signer.shingles(data, offsets)))
    if rensa_folder:
        sys.path.insert(0, rensa_folder)
        matrix = importlib.import_module("rensa").RMinHash.digest_matrix_from_flat_token_hashes

        def rensa() -> None:
            hashes, counts = signer.shingles(data, offsets)
            ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
            matrix(hashes.astype(np.uint64), ends, 112, 1)

        answer["rensa"] = best(rensa)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
