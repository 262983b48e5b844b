"""Packing loses no token, doubles none, and cuts only what does not fit a row."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.packing import DocumentPiece, pack, split


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), max_size=60), capacity=st.integers(1, 100))
def test_every_token_of_every_document_is_in_exactly_one_row(lengths: list[int], capacity: int) -> None:
    rows = pack(split(lengths, capacity), capacity)
    seen = [
        (piece.document, token)
        for row in rows
        for piece in row
        for token in range(piece.offset, piece.offset + piece.length)
    ]
    assert sorted(seen) == [(document, token) for document, length in enumerate(lengths) for token in range(length)]
    assert all(0 < sum(piece.length for piece in row) <= capacity for row in rows)


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), max_size=60), capacity=st.integers(1, 100))
def test_only_documents_longer_than_a_row_are_cut_and_into_as_few_pieces_as_can_be(lengths, capacity) -> None:
    pieces = split(lengths, capacity)
    for document, length in enumerate(lengths):
        assert sum(piece.document == document for piece in pieces) == -(-length // capacity)


def test_the_fullest_row_with_room_is_chosen() -> None:
    rows = pack([DocumentPiece(0, 0, 6), DocumentPiece(1, 0, 7), DocumentPiece(2, 0, 3)], 10)
    assert sorted(sum(piece.length for piece in row) for row in rows) == [6, 10]


def test_padding_is_rare_on_many_documents() -> None:
    rng = random.Random(0)
    lengths = [max(2, int(rng.lognormvariate(5.5, 1.0))) for _ in range(5000)]
    rows = pack(split(lengths, 1025), 1025)
    assert sum(lengths) / (len(rows) * 1025) > 0.995
