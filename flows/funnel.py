"""The funnel: what every document stage received, kept and dropped, read from manifests alone."""

from collections.abc import Iterable
from dataclasses import dataclass

from infra.store.dataset import Dataset

DOCUMENT_STAGES = ("ingest", "quality", "dedup", "decontaminate", "redact", "shards")


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


def funnel(datasets: Iterable[Dataset]) -> list[FunnelRow]:
    """One row for each dataset that counts documents, in path order."""
    by_name = {dataset.name: dataset for dataset in datasets}
    rows = []
    for name in DOCUMENT_STAGES:
        if name in by_name:
            counts = by_name[name].manifest.counts
            dropped = tuple(sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0])))
            rows.append(FunnelRow(name, counts.incoming, counts.kept, dropped, counts.failed))
    return rows
