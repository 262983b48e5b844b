"""A few documents to look at: kept ones from a dataset's data, dropped ones through its ledger."""

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.provenance.fates import find_rows
from infra.store.dataset import Dataset
from infra.store.store import Store

QUICK_LEDGER_BYTES = 4 << 20
QUICK_INPUT_BYTES = 64 << 20
LEDGER_COLUMNS = ["id", "url", "source", "verdict", "rule", "score", "threshold", "survivor_id", "detail"]


def kept_samples(dataset: Dataset, number: int, prefix: str = "data/") -> list[dict[str, Any]]:
    """Up to ``number`` documents drawn at random from the files below ``prefix``; the dataset's digest is the seed, so they
    are the same each time."""
    outputs = [output for output in dataset.files(prefix, ".parquet") if output.rows and ".lineage." not in output.path]
    ends = list(itertools.accumulate(output.rows or 0 for output in outputs))
    total = ends[-1] if ends else 0
    drawn = sorted(Random(f"{dataset.digest} {prefix}").sample(range(total), min(number, total)))
    wanted: dict[int, list[int]] = {}
    for place in drawn:
        file = bisect_right(ends, place)
        wanted.setdefault(file, []).append(place - (ends[file - 1] if file else 0))
    return [
        row
        for file, places in wanted.items()
        for row in _rows_at(pq.ParquetFile(dataset.local(outputs[file].path)), places)
    ]


def dropped_samples(
    store: Store, dataset: Dataset, rule: str | None, number: int, quick: bool = False
) -> list[dict[str, Any]]:
    """Up to ``number`` ledger rows, with the text they had when this stage received them where it is known.

    ``quick``: whatever the size of the dataset, in a moment. Of a long ledger only its first files are looked at, and
    large inputs are not searched for texts.
    """
    where = pc.field("rule") == rule if rule else pc.field("rule").is_valid()
    found = find_rows(dataset, "ledger/", where, LEDGER_COLUMNS, QUICK_LEDGER_BYTES if quick else None)
    rows = sorted(found, key=lambda row: row["id"])
    step = max(1, len(rows) // number)
    chosen = rows[::step][:number]
    texts = _incoming_texts(store, dataset, [row["id"] for row in chosen], QUICK_INPUT_BYTES if quick else None)
    return [{**row, "text": texts.get(row["id"])} for row in chosen]


def failed_rules(dataset: Dataset) -> dict[str, int]:
    """What could not be read, by rule, the most frequent first. The manifest counts only what was dropped by rule."""
    if not dataset.manifest.counts.failed:
        return {}
    rows = find_rows(dataset, "ledger/", pc.field("verdict") == "failed", ["rule"])
    return dict(Counter(row["rule"] for row in rows).most_common())


def _incoming_texts(store: Store, dataset: Dataset, ids: Sequence[bytes], most_bytes: int | None) -> dict[bytes, str]:
    texts: dict[bytes, str] = {}
    for record in dataset.manifest.inputs:
        source = store.find(record.name, record.fingerprint)
        if source is None or (most_bytes is not None and source.manifest.bytes > most_bytes):
            continue
        if len(texts) < len(ids):
            for row in find_rows(source, "data/", pc.field("id").isin(list(ids)), ["id", "text"]):
                if row.get("text") is not None:
                    texts[row["id"]] = row["text"]
    return texts


def _rows_at(table: pq.ParquetFile, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows at some places in rising order; only the row groups that hold them are read."""
    start = 0
    for group in range(table.metadata.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        here = [place for place in places if start <= place < end]
        if here:
            for batch in table.iter_batches(batch_size=256, row_groups=[group]):
                inside = [place - start for place in here if start <= place < start + batch.num_rows]
                yield from (batch.slice(place, 1).to_pylist()[0] for place in inside)
                start += batch.num_rows
        start = end
