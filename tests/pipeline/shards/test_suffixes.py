"""Suffix arrays and the searches in them, against what a plain loop finds."""

import numpy as np
import pytest

from infra.errors import InputError
from pipeline.shards import suffixes
from pipeline.shards.suffixes import key_shape, keys_of, maximal, ranges, suffix_array


def texts():
    rng = np.random.default_rng(0)
    yield np.zeros(0, np.int64), 10
    yield np.array([5]), 10
    yield np.full(300, 3), 10
    yield np.tile([1, 2, 1], 90), 10
    for alphabet in (2, 3, 40, 70_000):
        for size in (2, 30, 700):
            yield rng.integers(0, alphabet, size), alphabet
    twice = rng.integers(0, 500, 400)
    yield np.concatenate([twice, [7], twice, twice[:100]]), 500


def built(tokens: np.ndarray, vocab_size: int):
    stored = tokens.astype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    found = suffix_array(stored, vocab_size)
    high = (stored >> 16).astype(np.uint8) if vocab_size > 1 << 16 else np.empty(0, np.uint8)
    arrays = (stored.astype(np.uint16), high, found, keys_of(stored, found, vocab_size))
    for array in arrays:  # as they are mapped from a file
        array.flags.writeable = False
    return arrays


def test_suffixes_are_in_order() -> None:
    for tokens, alphabet in texts():
        whole = tokens.tolist()
        assert suffix_array(tokens, alphabet).tolist() == sorted(range(len(whole)), key=lambda at: whole[at:])


def naive(whole: list[int], query: list[int]) -> tuple[list[tuple[int, int]], dict[tuple[int, int], list[int]]]:
    """The maximal phrases, and the places of every phrase that occurs."""
    longest = []
    for begin in range(len(query)):
        ends = (end for end in range(len(query), begin, -1) if places(whole, query[begin:end]))
        longest.append((begin, next(ends, begin)))
    spans = [(b, e) for b, e in longest if e > b and not any(o < b and e <= u for o, u in longest)]
    return spans, {span: places(whole, query[span[0] : span[1]]) for span in spans}


def places(whole: list[int], phrase: list[int]) -> list[int]:
    size = len(phrase)
    return [at for at in range(len(whole) - size + 1) if whole[at : at + size] == phrase]


def test_maximal_phrases_and_all_their_places() -> None:
    rng = np.random.default_rng(1)
    for tokens, alphabet in texts():
        arrays, (number, bits) = built(tokens, alphabet), key_shape(alphabet)
        part = tokens[len(tokens) // 3 :][:40]
        for query in (part, np.concatenate([part, rng.integers(0, alphabet, 12), part[5:25]]), tokens[-3:]):
            query = query.astype(np.int64)
            found = np.empty((len(query), 2), np.int64)
            spans = found[: maximal(*arrays, query, number, bits, 0, len(query), found)]
            expected, standing = naive(tokens.tolist(), query.tolist())
            assert [tuple(span) for span in spans.tolist()] == expected
            bounds = np.empty((len(spans), 2), np.int64)
            ranges(*arrays, query, spans, number, bits, bounds)
            for span, (first, past) in zip(expected, bounds.tolist(), strict=True):
                assert sorted(arrays[2][first:past].tolist()) == standing[span]


def test_a_phrase_that_does_not_occur_has_no_places() -> None:
    arrays, (number, bits) = built(np.array([1, 2, 3, 1, 2, 4]), 10), key_shape(10)
    bounds = np.empty((3, 2), np.int64)
    ranges(*arrays, np.array([1, 2, 9, 1, 2]), np.array([[0, 3], [2, 3], [3, 5]]), number, bits, bounds)
    assert (bounds[:, 1] - bounds[:, 0]).tolist() == [0, 0, 2]


def test_a_shard_beyond_the_numbers_of_an_index_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(suffixes, "MOST_TOKENS", 5)
    with pytest.raises(InputError, match="bucket_tokens of at most 5"):
        suffix_array(np.zeros(6, np.uint16), 10)
