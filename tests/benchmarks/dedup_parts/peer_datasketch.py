"""datasketch: signatures alone, or its MinHashLSH over a corpus: ``python -m … SIGNATURES|LSH INPUT``.

Words and shingles as ours, made in Python as its users do; XXH32 for hashing, which is faster than its default.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import xxhash
from datasketch import MinHash, MinHashLSH

_WORD = re.compile(r"\w+")


def minhash(text: str) -> MinHash:
    words = _WORD.findall(text.lower())
    sketch = MinHash(112, seed=1, hashfunc=xxhash.xxh32_intdigest)
    sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
    return sketch


def rows(folder: str) -> Iterator[tuple[str, str]]:
    for path in sorted(Path(folder).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield row["id"], row["text"]


def main(what: str, folder: str) -> None:
    if what == "SIGNATURES":
        texts = [text for _, text in rows(folder)]
        started = time.perf_counter()
        for text in texts:
            minhash(text)
        answer = {"seconds": time.perf_counter() - started, "documents": len(texts)}
    else:
        started = time.perf_counter()
        index = MinHashLSH(num_perm=112, params=(14, 8))
        pairs = []
        for name, text in rows(folder):
            sketch = minhash(text)
            found = index.query(sketch)
            if found:
                pairs.append((name, min(found)))
            else:
                index.insert(name, sketch)
        answer = {"seconds": time.perf_counter() - started, "pairs": pairs}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
