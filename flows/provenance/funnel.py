"""The funnel: what every document stage received, kept and dropped; by source from manifests alone, by language from data.

Document stages write one file a unit below ``data/<source>/`` and ``ledger/<source>/``, with its rows in the manifest.
The ledger knows no languages, so by language a stage is told by what arrived and what stayed.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from flows.stages import document_path, holds_documents
from infra.store.dataset import Dataset
from pipeline.profiles import source_of

UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class FunnelRow:
    """One stage's counts; ``dropped`` by rule, most frequent first."""

    stage: str
    incoming: int
    kept: int
    dropped: tuple[tuple[str, int], ...]
    failed: int

    @property
    def kept_share(self) -> float:
        return self.kept / self.incoming if self.incoming else 0.0


@dataclass(frozen=True)
class GroupRow:
    """What one stage received and kept of one source or language."""

    stage: str
    group: str
    incoming: int
    kept: int


def funnel(datasets: Iterable[Dataset]) -> list[FunnelRow]:
    """One row for each dataset that counts documents, in path order."""
    rows = []
    for dataset in document_path(datasets):
        counts = dataset.manifest.counts
        dropped = tuple(sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0])))
        rows.append(FunnelRow(dataset.name, counts.incoming, counts.kept, dropped, counts.failed))
    return rows


def funnel_by_source(datasets: Iterable[Dataset]) -> list[GroupRow]:
    """One row a stage and source; ``shards``, whose rows are sequences, is left out."""
    rows = []
    for dataset in filter(holds_documents, document_path(datasets)):
        kept, lost = rows_by_source(dataset, "data/"), rows_by_source(dataset, "ledger/")
        rows += [
            GroupRow(dataset.name, source, kept[source] + lost[source], kept[source]) for source in sorted(kept | lost)
        ]
    return rows


def funnel_by_language(datasets: Iterable[Dataset]) -> list[GroupRow]:
    """One row a stage and language, the most frequent languages first, from the stage on that knows languages.

    ``attributes`` are what ``quality`` receives; every later stage receives what the one before it kept.
    """
    found = {dataset.name: dataset for dataset in datasets}
    if "attributes" not in found:
        return []
    rows: list[GroupRow] = []
    arrived = found["attributes"]
    measured = {record.name for record in arrived.manifest.inputs}
    path = [dataset for dataset in document_path(found.values()) if holds_documents(dataset)]
    first = next((place for place, dataset in enumerate(path) if dataset.name in measured), -1)
    for dataset in path[first + 1 :]:
        rows += languages_through(arrived, dataset)
        arrived = dataset
    return rows


def languages_through(arrived: Dataset, stage: Dataset) -> list[GroupRow]:
    """What a stage kept of each language that arrived, the most frequent first."""
    before, after = languages(arrived), languages(stage)
    ranked = sorted(before.items(), key=lambda item: (-item[1], item[0]))
    return [GroupRow(stage.name, language, number, after[language]) for language, number in ranked]


def languages(dataset: Dataset) -> Counter[str]:
    """Documents by language. One small column is read, a batch at a time."""
    import pyarrow.parquet as pq  # not for whoever only adds up counts

    total: Counter[str] = Counter()
    for output in dataset.files("data/", ".parquet"):
        with pq.ParquetFile(dataset.local(output.path)) as table:
            if "language" not in table.schema_arrow.names:
                return Counter()
            for batch in table.iter_batches(columns=["language"]):
                for entry in batch.column("language").value_counts().to_pylist():
                    total[entry["values"] or UNKNOWN] += entry["counts"]
    return total


def rows_by_source(dataset: Dataset, prefix: str) -> Counter[str]:
    """Rows of the files in the sources' folders, from the manifest."""
    total: Counter[str] = Counter()
    for output in dataset.files(prefix, ".parquet"):
        if output.path.count("/") == 2:
            total[source_of(output.path)] += output.rows or 0
    return total
