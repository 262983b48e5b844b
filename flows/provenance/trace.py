"""From a training step to its documents, and from a URL to the shards and steps that saw it.

Nothing was logged for this while training: the order of rows is a function of (seed, epoch, position), the rows know
their documents, and ``data/steps.parquet`` says which positions each step took. Steps are counted from 1: step N is the
update that made the model N steps old.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from infra.errors import InputError
from infra.store.dataset import Dataset
from pipeline.shards.document_order import DocumentOrder
from pipeline.shards.order import ShuffledOrder
from pipeline.shards.reader import Lineage, ShardSet

STEPS = "data/steps.parquet"
ROW_NAMES = "data/row_names.npy"


def trace_step(pretrain: Dataset, shards: Dataset, step: int, rank: int | None = None) -> dict[str, Any]:
    """The documents of one step's global batch, by the rank that learned from them (of several that share rows, the first).

    ``tokens`` is how many of a document's tokens were in the batch, ``offset`` the archive record's byte offset.
    """
    steps = Steps(pretrain)
    if rank is not None and rank >= steps.ranks:
        raise InputError(
            f"there is no rank {rank}", where="--rank", remedy=f"The run had ranks 0 to {steps.ranks - 1}."
        )
    opened = ShardSet.open(shards.local("data"), "train")
    rows = steps.order(opened.phases).rows(steps.positions(step))
    share = len(rows) // (max(steps.shares) + 1)
    documents: dict[tuple[int, bytes], dict[str, Any]] = {}
    for index, row in enumerate(rows.tolist()):
        owner = steps.shares.index(index // share) if rank is None else rank
        if steps.shares[owner] == index // share:
            for span in opened.documents(row):
                entry = documents.setdefault((owner, span.document_id), _document(span, owner))
                entry["tokens"] += span.end - span.start
    return {"step": step, "applied": steps.applied(step), "documents": list(documents.values())}


def trace_url(pretrain: Dataset | None, shards: Dataset, url: str) -> dict[str, Any]:
    """The shards that hold a URL's tokens and the steps that learned from them; no steps before a model was trained."""
    opened = ShardSet.open(shards.local("data"), "train")
    spans = list(opened.find_url(url))
    return {
        "url": url,
        "shards": sorted({Path(span.shard).name for span in spans}),
        "steps": Steps(pretrain).of_rows((span.row for span in spans), opened.phases) if pretrain else [],
    }


class Steps:
    """What each step of a published run consumed."""

    def __init__(self, pretrain: Dataset) -> None:
        table = pq.read_table(pretrain.local(STEPS))
        self._step = table["step"].to_numpy()
        self._first = table["first"].to_numpy()
        self._last = table["last"].to_numpy()
        self._applied = table["applied"].to_numpy(zero_copy_only=False)
        self._config = pretrain.manifest.config
        by_documents = self._config.get("order") == "documents"
        self._names = np.load(pretrain.local(ROW_NAMES), allow_pickle=False) if by_documents else None
        self.ranks = int(pretrain.manifest.stats["ranks"])
        self.shares: list[int] = pretrain.manifest.stats.get("row_shares") or list(range(self.ranks))
        """Which share of each step's rows a rank took."""

    def _index(self, step: int) -> int:
        if not 1 <= step <= len(self._step):
            raise InputError(
                f"there is no step {step}", where="--step", remedy=f"The run has steps 1 to {len(self._step)}."
            )
        return step - 1

    def order(self, phases: Sequence[int]) -> ShuffledOrder | DocumentOrder:
        """The order in which the run read the rows."""
        seed = int(self._config["seed"])
        if self._names is None:
            return ShuffledOrder(seed, phases)
        return DocumentOrder(seed, phases, self._names, len(self._step) * int(self._config["batch_sequences"]))

    def positions(self, step: int) -> np.ndarray:
        index = self._index(step)
        return np.arange(self._first[index], self._last[index] + 1)

    def applied(self, step: int) -> bool:
        return bool(self._applied[self._index(step)])

    def of_rows(self, rows: Iterable[int], phases: Sequence[int]) -> list[int]:
        """The steps whose batches held any of these rows of the train shards, which have so many rows in each phase."""
        wanted = np.unique(np.fromiter(rows, dtype=np.int64))
        found: set[int] = set()
        if len(wanted):
            order = self.order(phases)
            for epoch in range(self.epochs(sum(phases))):
                found.update(self.at(order.consumed(epoch, wanted)))
        return sorted(found)

    def epochs(self, sequences: int) -> int:
        return int(self._last.max()) // sequences + 1

    def at(self, consumed: np.ndarray) -> list[int]:
        """The steps that took these positions; positions that a rollback skipped belong to none."""
        # Positions only ever grow from step to step.
        index = np.searchsorted(self._first, consumed, side="right") - 1
        inside = (index >= 0) & (consumed <= self._last[index])
        return [int(step) for step in self._step[index[inside]]]


def _document(span: Lineage, rank: int) -> dict[str, Any]:
    return {
        "id": span.document_id.hex(),
        "url": span.url,
        "source": span.source,
        "archive": span.archive,
        "offset": span.archive_offset,
        "quality": span.quality,
        "rank": rank,
        "tokens": 0,
    }
