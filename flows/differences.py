"""What a duplicate and its survivor have in common, and what not: the part of ``headwater why`` that shows texts."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from flows.fates import Fate, find_rows
from infra.store.dataset import Dataset
from pipeline.dedup.difference import Difference, difference


def difference_of(fate: Fate, datasets: Sequence[Dataset]) -> Difference | None:
    """The difference to the survivor of a document that was dropped as a duplicate; None if it was not, or if a text is
    not there any more (the survivor of an earlier snapshot)."""
    verdict = fate.history[-1]
    if verdict.stage != "dedup" or verdict.survivor is None:
        return None
    dedup = next(dataset for dataset in datasets if dataset.name == "dedup")
    used = {record.name: record.digest for record in dedup.manifest.inputs}
    source = next((d for d in datasets if d.name == "quality" and d.digest == used.get("quality")), None)
    if source is None:
        return None
    texts = [_text(source, fate.id), _text(source, verdict.survivor)]
    if texts[0] is None or texts[1] is None:
        return None
    return difference(texts[0], texts[1])


def _text(dataset: Dataset, document: str) -> str | None:
    wanted = pc.field("id") == pa.scalar(bytes.fromhex(document), pa.binary(16))
    rows = find_rows(dataset, "data/", wanted, ["id", "text"])
    return rows[0]["text"] if rows else None
