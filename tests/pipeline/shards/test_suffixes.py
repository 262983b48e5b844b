"""Suffix arrays and the searches in them, against what a plain loop finds."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from infra.errors import InputError
from pipeline.shards import phrases, suffixes
from pipeline.shards.phrases import high_of, maximal, nodes_of, ranges, token_bits
from pipeline.shards.suffixes import suffix_array


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
    arrays = (stored.astype(np.uint16), high_of(stored, vocab_size), found, *nodes_of(stored, found, vocab_size))
    for array in arrays:  # as they are mapped from a file
        array.flags.writeable = False
    return arrays


def test_suffixes_are_in_order() -> None:
    for tokens, alphabet in texts():
        whole = tokens.tolist()
        assert suffix_array(tokens, alphabet).tolist() == sorted(range(len(whole)), key=lambda at: whole[at:])


def naive(whole: np.ndarray, query: np.ndarray) -> tuple[list[tuple[int, int]], dict[tuple[int, int], list[int]]]:
    """The maximal phrases, and their places."""
    longest = []
    for begin in range(len(query)):
        end = begin  # what holds of a phrase holds of its beginnings
        while end < len(query) and places(whole, query[begin : end + 1]):
            end += 1
        longest.append((begin, end))
    spans = [(b, e) for b, e in longest if e > b and not any(o < b and e <= u for o, u in longest)]
    return spans, {span: places(whole, query[span[0] : span[1]]) for span in spans}


def places(whole: np.ndarray, phrase: np.ndarray) -> list[int]:
    if len(phrase) > len(whole):
        return []
    found: list[int] = np.flatnonzero((sliding_window_view(whole, len(phrase)) == phrase).all(axis=1)).tolist()
    return found


def check(arrays, bits: int, tokens: np.ndarray, query: np.ndarray) -> None:
    query = query.astype(np.int64)
    found = np.empty((len(query), 2), np.int64)
    spans = found[: maximal(*arrays, query, bits, 0, len(query), found)]
    expected, standing = naive(tokens, query)
    assert [tuple(span) for span in spans.tolist()] == expected
    bounds = np.empty((len(spans), 2), np.int64)
    ranges(*arrays, query, spans, bits, bounds)
    for span, (first, past) in zip(expected, bounds.tolist(), strict=True):
        assert sorted(arrays[2][first:past].tolist()) == standing[span]


def test_maximal_phrases_and_all_their_places() -> None:
    rng = np.random.default_rng(1)
    for tokens, alphabet in texts():
        arrays, bits = built(tokens, alphabet), token_bits(alphabet)
        part = tokens[len(tokens) // 3 :][:40]
        for query in (part, np.concatenate([part, rng.integers(0, alphabet, 12), part[5:25]]), tokens[-3:]):
            check(arrays, bits, tokens, query)


def test_phrases_that_stand_thousands_of_times_and_such_as_differ_late() -> None:
    rng = np.random.default_rng(2)
    tokens = np.where(rng.random(12_000) < 0.05, 2, 1)
    passage = rng.integers(1, 3, 60)
    for at in range(20):  # the same sixty tokens, each time with one more that goes on
        tokens[500 * at : 500 * at + 40 + at] = passage[: 40 + at]
        tokens[500 * at + 40 + at] = 3
    arrays, bits = built(tokens, 60_000), token_bits(60_000)
    assert len(places(tokens, np.ones(4))) > phrases.WIDE * phrases.NODE
    for query in (passage, passage[5:50], np.concatenate([passage[20:45], [3]]), tokens[200:240], tokens[300:304]):
        check(arrays, bits, tokens, query)
    spans = np.array([[begin, end] for begin in range(0, 50, 7) for end in range(begin + 1, 60, 5)])
    bounds = np.empty_like(spans)
    ranges(*arrays, passage, spans, bits, bounds)
    for (begin, end), (first, past) in zip(spans.tolist(), bounds.tolist(), strict=True):
        assert sorted(arrays[2][first:past].tolist()) == places(tokens, passage[begin:end])


def test_a_phrase_that_does_not_occur_has_no_places() -> None:
    arrays, bits = built(np.array([1, 2, 3, 1, 2, 4]), 10), token_bits(10)
    bounds = np.empty((3, 2), np.int64)
    ranges(*arrays, np.array([1, 2, 9, 1, 2]), np.array([[0, 3], [2, 3], [3, 5]]), bits, bounds)
    assert (bounds[:, 1] - bounds[:, 0]).tolist() == [0, 0, 2]


def test_a_shard_beyond_the_numbers_of_an_index_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(suffixes, "MOST_TOKENS", 5)
    with pytest.raises(InputError, match="bucket_tokens of at most 5"):
        suffix_array(np.zeros(6, np.uint16), 10)
