"""The sample a vocabulary is trained on: stratified by source, chosen by the hash of a document's id.

A document's place in line is a number in [0, 1) made of its id alone, so who is in the sample depends neither on the
number of workers nor on the order of files. It is drawn in two passes. The units keep every document whose place lies
below a bound that is sure to give enough text (a file holds at least as many bytes of text as its own compressed
size); then the budget is cut exactly, by place, on the small table of places and sizes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.store.cache import local_file
from pipeline.document import RowWriter, read_batches

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("place", pa.float64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
MARGIN = 2.0
"""How much more than its budget a source hands on to the second pass, at least."""


def place(document: bytes) -> float:
    """A document's fixed place in line, from its id."""
    digest = hashlib.blake2b(document, digest_size=8, person=b"tokenizer").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@dataclass(frozen=True)
class Quota:
    """A source's part: ``budget`` bytes of text, to be found among documents placed below ``bound``."""

    budget: int
    bound: float


def quotas(source_bytes: Mapping[str, int], total_budget: int, smoothing: float) -> dict[str, Quota]:
    """Each source's quota, in proportion to its size to the power ``smoothing``.

    1 keeps the corpus's own proportions, 0 gives every source the same; in between, small sources count for more than
    their size, so that a vocabulary for prose with a little code still holds code's tokens.
    """
    weights = {source: size**smoothing for source, size in sorted(source_bytes.items()) if size}
    total = sum(weights.values())
    found = {}
    for source, weight in weights.items():
        budget = int(total_budget * weight / total)
        found[source] = Quota(budget, min(1.0, MARGIN * budget / source_bytes[source]))
    return found


def draw(urls: Iterable[str], bound: float, target: Path) -> int:
    """First pass over a unit's files: write the documents placed below ``bound``; returns how many."""
    with RowWriter(target, SAMPLE_SCHEMA) as writer:
        for url in urls:
            for batch in read_batches(url, columns=["id", "text"]):
                places = [place(document) for document in batch.column("id").to_pylist()]
                chosen = [index for index, at in enumerate(places) if at < bound]
                for index, text in zip(chosen, batch.column("text").take(chosen).to_pylist(), strict=True):
                    writer.write({"place": places[index], "bytes": len(text.encode()), "text": text})
        return writer.rows


def cut(urls: Iterable[str], budget: int) -> float:
    """The place below which the documents just fill ``budget`` bytes (2.0 if all of them fit)."""
    tables = [pq.read_table(local_file(url), columns=["place", "bytes"]) for url in urls]
    if not tables:
        return 2.0
    table = pa.concat_tables(tables).sort_by("place")
    taken = pc.cumulative_sum(table.column("bytes"))
    inside = pc.sum(pc.less_equal(taken, budget)).as_py() or 0
    return float(table.column("place")[inside].as_py()) if inside < table.num_rows else 2.0


def texts_below(urls: Sequence[str], bound: float) -> Iterator[str]:
    """The texts placed below ``bound``, file by file."""
    for url in urls:
        for batch in read_batches(url, batch_rows=256):
            yield from batch.filter(pc.less(batch.column("place"), bound)).column("text").to_pylist()


def texts_from(urls: Sequence[str], bound: float) -> Iterator[str]:
    """The texts placed at or beyond ``bound``: documents the vocabulary has not seen."""
    for url in urls:
        for batch in read_batches(url, batch_rows=256):
            yield from batch.filter(pc.greater_equal(batch.column("place"), bound)).column("text").to_pylist()
