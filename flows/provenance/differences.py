"""What a duplicate and its survivor have in common, and what not: the part of ``headwater why`` that shows texts."""

import contextlib
from collections.abc import Iterator, Sequence

from flows.provenance.fates import DocumentFate, value_of
from infra.errors import InputError
from infra.store.address import beside
from infra.store.dataset import Dataset
from pipeline.dedup.config import DOCUMENTS
from pipeline.dedup.difference import Difference, difference


def difference_of(fate: DocumentFate, datasets: Sequence[Dataset]) -> Difference | None:
    """The difference to the survivor of a document that was dropped as a duplicate, in this snapshot or an earlier one; None
    if it was not, or if a text is not there any more."""
    verdict = fate.history[-1]
    dedup = next((dataset for dataset in datasets if dataset.name == verdict.stage), None)
    if dedup is None or dedup.kind != "dedup" or verdict.survivor is None:
        return None
    source = read_by(dedup, datasets)
    if source is None:
        return None
    dropped = value_of(bytes.fromhex(fate.id), source, "text")
    kept = bytes.fromhex(verdict.survivor)
    survivors = (value_of(kept, dataset, "text") for dataset in (source, *earlier_snapshots(dedup)))
    survivor = next((text for text in survivors if text is not None), None)
    if dropped is None or survivor is None:
        return None
    return difference(dropped, survivor)


def read_by(dedup: Dataset, datasets: Sequence[Dataset]) -> Dataset | None:
    """The one of the datasets whose documents a dedup dataset was made from."""
    used = {(record.name, record.digest) for record in dedup.manifest.inputs if record.role == DOCUMENTS}
    return next((each for each in datasets if (each.name, each.digest) in used), None)


def earlier_snapshots(dedup: Dataset) -> Iterator[Dataset]:
    """The snapshots a dedup dataset was compared with, those that are still there."""
    for address in dedup.manifest.config.get("previous", ()):
        with contextlib.suppress(InputError):
            yield Dataset.open(beside(address, dedup.root))
