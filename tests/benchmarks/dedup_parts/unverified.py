"""What MinHash alone would remove: our own signatures, every pair of a band taken for duplicates, clusters by connected
components: ``python -m … INPUT CONFIG``.

The same nominations as the stage's, so that what verification changes can be seen: prints (removed, survivor) pairs, the
survivor being the longest document of its component.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dedup import DedupConfig
from pipeline.dedup.minhash import band_keys
from pipeline.dedup.sign import COLUMNS, Signer, slices


def main(source: str, config: str) -> None:
    started = time.perf_counter()
    settings = DedupConfig.model_validate_json(config)
    names, lengths, keys = _banded(Path(source), settings)
    roots = _components(keys)
    pairs = [[names[row], names[best]] for row, best in _removed(roots, lengths)]
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - started, "pairs": pairs}) + "\n")


def _banded(source: Path, config: DedupConfig) -> tuple[list[str], list[int], NDArray[np.uint64]]:
    signer = Signer.create(config)
    bands, rows = config.shape
    names: list[str] = []
    lengths: list[int] = []
    keys = []
    for path in sorted(source.rglob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(1024, columns=[*COLUMNS, "origin"]):
            for part in slices(batch):
                signed = signer.sign(part)
                found = np.empty((part.num_rows, bands), np.uint64)
                band_keys(signed.signatures, np.zeros(part.num_rows, np.uint64), rows, found)
                keys.append(found)
                names += [row["record_id"] for row in part["origin"].to_pylist()]
                lengths += pc.utf8_length(part["text"]).to_pylist()
    return names, lengths, np.concatenate(keys)


def _components(keys: NDArray[np.uint64]) -> list[int]:
    """The component of each document: union-find over neighbours in the order of each band's keys."""
    parent = list(range(len(keys)))

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        same = keys[order[1:], band] == keys[order[:-1], band]
        for one, other in zip(order[:-1][same].tolist(), order[1:][same].tolist(), strict=True):
            a, b = find(one), find(other)
            parent[max(a, b)] = min(a, b)
    return [find(row) for row in range(len(keys))]


def _removed(roots: list[int], lengths: list[int]) -> list[tuple[int, int]]:
    best: dict[int, int] = {}
    for row, root in enumerate(roots):
        if root not in best or lengths[row] > lengths[best[root]]:
            best[root] = row
    return [(row, best[root]) for row, root in enumerate(roots) if best[root] != row]


if __name__ == "__main__":
    main(*sys.argv[1:3])
