"""datasketch as its users run it, in one process: ``python -m … SIGNATURES|LSH INPUT [OUTPUT] HASH``.

``SIGNATURES`` times MinHash objects alone, of JSON lines. ``LSH`` is the whole way: documents are read from Parquet files,
signed, looked up in a MinHashLSH of those kept so far, inserted if nothing is found, and the kept ones are written to
Parquet files. Nothing is verified: the first candidate counts as the original.

Words and shingles are as ours, made in Python, and handed over a document at a time (``update_batch``, several times as
fast as ``update`` for each shingle). ``HASH`` is ``default`` (datasketch's own, SHA-1) or ``xxh32``, which is faster.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasketch import MinHash, MinHashLSH

_WORD = re.compile(r"\w+")
REPEAT = 5
"""The fastest counts, as for ours: other work on the machine then disturbs both as little as may be."""
HASHES = {"default": None, "xxh32": xxhash.xxh32_intdigest}


def minhash(text: str, hashing: str) -> MinHash:
    words = _WORD.findall(text.lower())
    sketch = MinHash(112, seed=1, hashfunc=HASHES[hashing])
    sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
    return sketch


def rows(folder: str) -> Iterator[tuple[str, str]]:
    for path in sorted(Path(folder).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield row["id"], row["text"]


def signatures(folder: str, hashing: str) -> dict[str, float]:
    texts = [text for _, text in rows(folder)]
    times = []
    for _ in range(REPEAT):
        started = time.perf_counter()
        for text in texts:
            minhash(text, hashing)
        times.append(time.perf_counter() - started)
    return {"seconds": min(times), "documents": len(texts)}


def deduplicate(source: Path, target: Path, hashing: str) -> dict[str, object]:
    started = time.perf_counter()
    index = MinHashLSH(num_perm=112, params=(14, 8))
    pairs = []
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*.parquet")):
        file = pq.ParquetFile(path)
        with pq.ParquetWriter(target / path.name, file.schema_arrow, compression="zstd") as writer:
            for batch in file.iter_batches(1024):
                kept = []
                for row in batch.select(["text", "origin"]).to_pylist():
                    name, sketch = row["origin"]["record_id"], minhash(row["text"], hashing)
                    found = index.query(sketch)
                    kept.append(not found)
                    if found:
                        pairs.append((name, min(found)))
                    else:
                        index.insert(name, sketch)
                writer.write_table(pa.Table.from_batches([batch]).filter(pa.array(kept)))
    return {"seconds": time.perf_counter() - started, "pairs": pairs}


def main(what: str, folder: str, *more: str) -> None:
    if what == "SIGNATURES":
        answer: dict[str, object] = dict(signatures(folder, *more))
    else:
        answer = deduplicate(Path(folder), Path(more[0]), more[1])
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
