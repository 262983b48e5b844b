"""Pieces of conversations packed several to a row.

Each piece carries its own segment number and its own positions, so that attention never crosses from one conversation
into another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.turns import Rendered
from pipeline.shards.packing import best_fit


@dataclass(frozen=True)
class PackedRows:
    """Rows of ``length`` tokens. ``segments`` is 0 on padding and 1, 2, … for the pieces of a row."""

    input_ids: np.ndarray
    loss_mask: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    members: list[list[int]]
    """By row, the places of its pieces among those that were packed."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, its padding left out."""
        return np.asarray((self.segments > 0).sum(axis=1))

    @property
    def filled(self) -> float:
        """The share of the rows that is not padding."""
        return float((self.segments > 0).mean()) if self.segments.size else 0.0

    def select(self, indices: np.ndarray) -> "PackedRows":
        ids, counted, members = self.input_ids[indices], self.loss_mask[indices], [self.members[i] for i in indices]
        return PackedRows(ids, counted, self.segments[indices], self.positions[indices], members)


def pack(pieces: Sequence[Rendered], length: int, pad_id: int) -> PackedRows:
    """Best-fit decreasing: the longest piece first, each into the fullest row that still has room."""
    rows = best_fit([len(piece.ids) for piece in pieces], length)
    shape = (len(rows), length)
    ids, counted = np.full(shape, pad_id, np.int64), np.zeros(shape, bool)
    packed = PackedRows(ids, counted, np.zeros(shape, np.int64), np.zeros(shape, np.int64), rows)
    for row, members in enumerate(rows):
        start = 0
        for number, index in enumerate(members, start=1):
            piece = pieces[index]
            span = slice(start, start + len(piece.ids))
            packed.input_ids[row, span] = piece.ids
            packed.loss_mask[row, span] = piece.loss_mask
            packed.segments[row, span] = number
            packed.positions[row, span] = np.arange(len(piece.ids))
            start = span.stop
    return packed
