"""Best-fit packing: documents into rows of one length, with as little padding and as few cuts as can be.

A document longer than a row is cut into full rows and a rest; nothing else is ever cut. The rests are placed longest
first, each into the fullest row that still has room for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DocumentPiece:
    """``length`` tokens of a document (its place in the list of documents), beginning at its token ``offset``."""

    document: int
    offset: int
    length: int


def split(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[DocumentPiece]:
    """Cut documents of these lengths into pieces of at most ``capacity`` tokens."""
    return [
        DocumentPiece(document, offset, min(capacity, int(length) - offset))
        for document, length in enumerate(lengths)
        for offset in range(0, int(length), capacity)
    ]


def pack(pieces: Sequence[DocumentPiece], capacity: int) -> list[list[DocumentPiece]]:
    """Rows of pieces. Within a row they keep the order of the documents, so that sizes tell nothing about places."""
    rows = best_fit([piece.length for piece in pieces], capacity)
    return [[pieces[place] for place in sorted(members)] for members in rows]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """What stands in each row, by its place among the lengths, the longest first: each in the fullest row that had room."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set while some row has room for exactly r tokens: finding the best fit is one shift
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fitting = rooms >> lengths[place]
        if fitting:
            room = lengths[place] + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            rows[row].append(place)
        else:
            room, row = capacity, len(rows)
            rows.append([place])
        left = room - lengths[place]
        if left:
            by_room[left].append(row)
            rooms |= 1 << left
    return rows
