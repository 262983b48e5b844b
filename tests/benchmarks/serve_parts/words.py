"""Looking for words in a hundred million tokens: how long it takes from a disk, and what building the index takes.

    find_ms                 median of a text of some forty words, one passage of which a document holds; before each one
                            the pages of the index are dropped from the machine's memory, so that all comes from the disk
    find_cached_ms          the same texts again, with their pages in memory
    find_found              share of the passages that were found whole, with their document
    index_bytes_per_token   all files of the index
    index_worker_mb         memory of the process that indexes a shard of 33 million tokens, at most
    index_seconds           building it, one shard after another

The words are those of a workspace's documents, each one followed by one that follows it there: new text with the words,
pairs and tokens of the old. White space is one space, so that a document's tokens are those of its words.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from flows.stages import load_stage
from infra.runner import run_stage
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from infra.store.manifest import write_manifest
from infra.store.store import Store
from pipeline.document import read_batches
from pipeline.shards.append import UNIGRAMS
from pipeline.shards.bucket import pack_documents, shard_rows, write_lineage
from pipeline.shards.find import Index
from pipeline.shards.format import LINEAGE_SUFFIX, TRAIN, part_name, shard_schema, write_shard
from pipeline.shards.index import IndexConfig
from pipeline.tokenizer.model import Tokenizer
from tests.benchmarks.dedup_parts import measure as process
from tests.infra.run_toy import context
from tests.support import adopt_dataset

SHARD_TOKENS, SEQ_LEN, CHAINS = 1 << 25, 1024, 4096
WORDS = (40, 800)
PASSAGE, AROUND = 12, 14


class Chain:
    """Words that follow one another as they do in some texts, as their tokens."""

    def __init__(self, texts: list[str], tokenizer: Tokenizer, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        words = [word for text in texts for word in text.split() if "\u2581" not in word]
        numbers: dict[str, int] = {}
        at = np.array([numbers.setdefault(word, len(numbers)) for word in words])
        self.spelt = list(numbers)
        encoded = tokenizer.encode_batch([f" {word}" for word in self.spelt])
        self.tokens = np.array([token for tokens in encoded for token in tokens])
        self.ends = np.cumsum([len(tokens) for tokens in encoded])
        self.order = np.argsort(at, kind="stable")  # where each word stands, word by word
        self.firsts = np.searchsorted(at[self.order], np.arange(len(self.spelt) + 1))
        self.at = at

    def words(self, chains: int, length: int) -> np.ndarray:
        found = np.empty((chains, length), np.int32)
        word = self.at[self.random.integers(0, len(self.at), chains)]
        for step in range(length):
            found[:, step] = word
            first, number = self.firsts[word], self.firsts[word + 1] - self.firsts[word]
            place = self.order[first + (self.random.random(chains) * number).astype(np.int64)] + 1
            word = self.at[place % len(self.at)]
        return found

    def tokens_of(self, words: np.ndarray) -> np.ndarray:
        ends = self.ends[words]
        sizes = ends - np.where(words > 0, self.ends[words - 1], 0)
        first = np.repeat(ends - sizes - (np.cumsum(sizes) - sizes), sizes)
        return self.tokens[first + np.arange(sizes.sum())]

    def text(self, words: np.ndarray) -> str:
        return " ".join(self.spelt[word] for word in words)


def measure(store: Store, tokens: int, scratch: Path, queries: int = 100) -> dict[str, float]:
    """``store``: a workspace with a tokenizer and the documents behind it."""
    tokenizer_dataset, documents = store.resolve("tokenizer"), store.resolve("redact")
    tokenizer = Tokenizer.load(tokenizer_dataset.local("data"))
    files = documents.files("data/", ".parquet")
    texts = [
        text for file in files for batch in read_batches(documents.url(file.path)) for text in batch["text"].to_pylist()
    ]
    chain = Chain(texts, tokenizer, seed=0)
    shards, passages = made(chain, tokenizer, tokens, scratch / "shards", queries)
    building = [sys.executable, "-m", __name__, str(scratch / "workspace"), shards.root, tokenizer_dataset.root]
    took = process.measure(building)
    built = Dataset.open(took.result["index"])
    asked = [_asked(chain, passage) for passage, _ in passages]
    cold, warm, found = [], [], 0
    for text in asked:
        index = Index(built)
        _drop(built)
        cold.append(_timed(index, text)[0])
    index = Index(built)
    for text in asked:  # the pages that the next one's turn dropped
        index.find(text)
    for text, (passage, url) in zip(asked, passages, strict=True):
        milliseconds, spans = _timed(index, text)
        warm.append(milliseconds)
        whole = [span for span in spans if chain.text(passage) in text[span.start : span.end]]
        found += any(match.url == url for span in whole for match in span.matches)
    return {
        "find_ms": round(median(cold), 2),
        "find_cached_ms": round(median(warm), 2),
        "find_found": found / queries,
        "index_bytes_per_token": round(sum(output.bytes for output in built.manifest.outputs) / tokens_of(built), 3),
        "index_worker_mb": round(took.worker_mb, 1),
        "index_seconds": round(took.seconds, 1),
        "index_tokens": tokens_of(built),
    }


def tokens_of(index: Dataset) -> int:
    return int(index.manifest.stats["tokens"])


def _asked(chain: Chain, passage: np.ndarray) -> str:
    around = chain.words(1, 2 * AROUND)[0]
    return chain.text(np.concatenate([around[:AROUND], passage, around[AROUND:]]))


def _timed(index: Index, text: str) -> tuple[float, Any]:
    began = time.perf_counter()
    spans = index.find(text).spans
    return 1000 * (time.perf_counter() - began), spans


def _drop(dataset: Dataset) -> None:
    """Forget the pages of its files; none is mapped that was looked at."""
    for output in dataset.manifest.outputs:
        file = os.open(dataset.local(output.path), os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


# ---- the shards -----------------------------------------------------------------------------------------------------


def made(
    chain: Chain, tokenizer: Tokenizer, tokens: int, root: Path, passages: int
) -> tuple[Dataset, list[tuple[np.ndarray, str]]]:
    """A shards dataset of so many tokens, and some passages of it with their documents."""
    (root / "data").mkdir(parents=True)
    counts, outputs, rows, chosen = np.zeros(tokenizer.vocab_size, np.int64), [], 0, []
    numbers = -(-tokens // SHARD_TOKENS)
    for number in range(numbers):
        table, words = documents_of(chain, tokenizer, tokens // numbers, number)
        name = part_name(TRAIN, number)
        packed = pack_documents(table, SEQ_LEN + 1, 0, number)
        assert packed is not None
        schema = shard_schema(
            tokenizer.vocab_size, SEQ_LEN, {"tokenizer_digest": tokenizer.digest, "mixture": {}}, False
        )
        write_shard(root / f"data/{name}.arrow", schema, shard_rows(packed, None), tokenizer.pad_id)
        write_lineage(packed, root / f"data/{name}{LINEAGE_SUFFIX}")
        counts += np.bincount(packed.tokens, minlength=tokenizer.vocab_size)
        outputs.append(describe_file(root, f"data/{name}.arrow", rows=len(packed.rows)))
        outputs.append(describe_file(root, f"data/{name}{LINEAGE_SUFFIX}"))
        rows += len(packed.rows)
        for document in chain.random.integers(0, len(words), -(-passages // numbers)).tolist():
            start = int(chain.random.integers(0, len(words[document]) - PASSAGE))
            chosen.append((words[document][start : start + PASSAGE], table["url"][document].as_py()))
    np.save(root / UNIGRAMS, counts)
    dataset = adopt_dataset(root, "shards", [*outputs, describe_file(root, UNIGRAMS)])
    stats = {
        "tokenizer_digest": tokenizer.digest, "vocab_size": tokenizer.vocab_size, "phases": [{"sequences": rows}]
    }  # fmt: skip
    write_manifest(str(root), dataset.manifest.model_copy(update={"stats": stats}))
    return Dataset.open(str(root)), chosen[:passages]


def documents_of(chain: Chain, tokenizer: Tokenizer, tokens: int, shard: int) -> tuple[pa.Table, list[np.ndarray]]:
    lists, words, total = [], [], 0
    for text in _texts(chain):
        ids = np.concatenate([[tokenizer.bos_id], chain.tokens_of(text), [tokenizer.eos_id]])
        if total + len(ids) > tokens:
            break
        lists.append(ids)
        words.append(text)
        total += len(ids)
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])])
    values = pa.array(np.concatenate(lists).astype(np.uint16 if tokenizer.vocab_size < 1 << 16 else np.uint32))
    ids = [shard.to_bytes(4, "big") + number.to_bytes(12, "big") for number in range(len(lists))]
    table = pa.table({
        "id": pa.array(ids, pa.binary(16)),
        "url": [f"https://example.org/{shard}/{number}" for number in range(len(lists))],
        "source": ["words"] * len(lists),
        "archive": [f"words-{number // 1000:06}.warc.gz" for number in range(len(lists))],
        "archive_offset": np.arange(len(lists), dtype=np.int64) * 1000,
        "quality": chain.random.random(len(lists), np.float32),
        "tokens": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values),
    })  # fmt: skip
    return table, words


def _texts(chain: Chain) -> Iterator[np.ndarray]:
    while True:
        block = chain.words(CHAINS, WORDS[1])
        for row, length in zip(block, chain.random.integers(*WORDS, len(block)), strict=True):
            yield row[:length]


if __name__ == "__main__":
    workspace, *roots = sys.argv[1:]
    given = dict(zip(("shards", "tokenizer"), map(Dataset.open, roots), strict=True))
    outcome = run_stage(StageNode(load_stage("index"), IndexConfig()), given, context(workspace, workers=1))
    sys.stdout.write(json.dumps({"index": outcome.dataset.root}) + "\n")
