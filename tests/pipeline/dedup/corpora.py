"""Small corpora with known duplicates, published as the dataset the stage reads."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.document import Document, document_id, documents_table
from tests.support import adopt_dataset


def document(name: str, text: str, **columns: Any) -> Document:
    origin = {"archive": "made", "offset": 0, "length": len(text), "record_id": name, "digest": ""}
    identity = document_id("made", name, name, "")
    return {"id": identity, "text": text, "source": "web", "origin": origin, **columns}  # type: ignore[typeddict-item,return-value]


def sentence_words(rng: random.Random, number: int, vocabulary: int = 5000) -> list[str]:
    return [f"w{rng.randrange(vocabulary)}" for _ in range(number)]


def edited(rng: random.Random, words: Sequence[str], changes: int) -> list[str]:
    """Replace ``changes`` words by new ones, evenly spaced."""
    out = list(words)
    for k in range(changes):
        out[int((k + 0.5) * len(out) / changes)] = f"new{rng.randrange(10**9)}"
    return out


def publish(folder: Path, files: dict[str, Sequence[Document]]) -> Dataset:
    """A dataset ``quality`` of the given files (``{"web/a": documents}``)."""
    for name, documents in files.items():
        path = folder / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(documents_table(documents), path)
    total = sum(map(len, files.values()))
    outputs = [describe_file(folder, f"data/{name}.parquet") for name in sorted(files)]
    return adopt_dataset(folder, "quality", outputs, Counts(total, total))


def kept(dataset: Dataset) -> set[bytes]:
    return {
        row["id"]
        for file in dataset.files("data/")
        for row in pq.read_table(dataset.local(file.path), columns=["id"]).to_pylist()
    }


def ledger(dataset: Dataset) -> dict[bytes, dict[str, Any]]:
    return {
        row["id"]: row
        for file in dataset.files("ledger/")
        for row in pq.read_table(dataset.local(file.path)).to_pylist()
    }
