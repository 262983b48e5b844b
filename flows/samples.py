"""A few documents to look at: kept ones from a dataset's data, dropped ones through its ledger."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.fates import find_rows
from infra.store.dataset import Dataset
from infra.store.store import Store

T = TypeVar("T")
QUICK_LEDGER_BYTES = 4 << 20
QUICK_INPUT_BYTES = 64 << 20
LEDGER_COLUMNS = ["id", "url", "source", "verdict", "rule", "score", "threshold", "survivor_id", "detail"]


def kept_samples(dataset: Dataset, number: int) -> list[dict[str, Any]]:
    """Up to ``number`` documents, spread evenly over the dataset's files and rows: always the same ones."""
    files = [output for output in dataset.files("data/", ".parquet") if output.rows and ".lineage." not in output.path]
    rows: list[dict[str, Any]] = []
    for output, count in _spread([(output, output.rows or 0) for output in files], number):
        table = pq.ParquetFile(dataset.local(output.path))
        step = max(1, table.metadata.num_rows // count)
        wanted = [index * step for index in range(count) if index * step < table.metadata.num_rows]
        rows += list(_rows_at(table, wanted))
    return rows


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


def _spread(weighted: Sequence[tuple[T, int]], number: int) -> Iterator[tuple[T, int]]:
    """Share ``number`` picks among items in proportion to their weight, every pick at a fixed place."""
    total = sum(weight for _, weight in weighted)
    before = 0
    for item, weight in weighted:
        picks = (before + weight) * number // total - before * number // total
        before += weight
        if picks:
            yield item, min(picks, weight)


def _rows_at(table: pq.ParquetFile, wanted: Sequence[int]) -> Iterator[dict[str, Any]]:
    start = 0
    targets = set(wanted)
    for batch in table.iter_batches(batch_size=256):
        here = [index - start for index in sorted(targets) if start <= index < start + batch.num_rows]
        yield from (batch.slice(index, 1).to_pylist()[0] for index in here)
        start += batch.num_rows
        if start > max(wanted):
            return
