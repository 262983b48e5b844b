"""Token shards as a torch dataset, for training loops that are not ours.

A row is ``{"input_ids": int64 [seq_len + 1], "labels": int64 [seq_len + 1]}``. Labels are the ids themselves, as Hugging
Face's models expect, which shift them; -100 (not counted) where a token is padding or the first one of a document, which
cannot be predicted from the document before it. Our own loop reads through ``training.loader``.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.shards.reader import RowBatch, ShardSet

IGNORED = -100


class TorchRows(Dataset[dict[str, Tensor]]):
    """A map-style dataset; ``DataLoader(rows, batch_size=8, shuffle=True)`` works, with worker processes too."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        (item,) = self.__getitems__([row])
        return item

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        """Several rows at once, as a ``DataLoader`` asks for them."""
        batch = self.shards.rows(np.asarray([row + len(self) if row < 0 else row for row in rows]))
        labels = _labels(batch)
        return [
            {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(wanted)}
            for ids, wanted in zip(batch.input_ids, labels, strict=True)
        ]


def _labels(batch: RowBatch) -> np.ndarray:
    """``batch.input_ids`` [B, T] with ``IGNORED`` where nothing is to be predicted."""
    labels = batch.input_ids.copy()
    labels[np.arange(labels.shape[1]) >= batch.lengths[:, None]] = IGNORED
    for row, starts in enumerate(batch.boundaries):
        labels[row, starts] = IGNORED
    return labels
