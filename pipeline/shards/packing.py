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
    rows: list[list[DocumentPiece]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set while some row has room for exactly r tokens: finding the best fit is one shift
    for piece in sorted(pieces, key=lambda piece: (-piece.length, piece.document, piece.offset)):
        fitting = rooms >> piece.length
        if fitting:
            room = piece.length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            rows[row].append(piece)
        else:
            room, row = capacity, len(rows)
            rows.append([piece])
        left = room - piece.length
        if left:
            by_room[left].append(row)
            rooms |= 1 << left
    for members in rows:
        members.sort(key=lambda piece: (piece.document, piece.offset))
    return rows
