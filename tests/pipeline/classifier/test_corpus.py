"""The training material: samples that depend on ids only, passages, balance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.classifier.corpus import Sample, balanced, held_out, length_band, passages, rank_of, without_overlap
from pipeline.classifier.figures import auc, calibration, calibration_error


def sample(number, good, text):
    id = number.to_bytes(16, "big")
    return Sample(rank_of(0, id), good, id, "", "web", "", text)


def test_passages_are_spread_over_the_document():
    pieces = passages(sample(1, True, " ".join(map(str, range(100)))), 10, 4)
    assert [piece.text.split()[0] for piece in pieces] == ["0", "20", "50", "70"]
    assert {piece.words for piece in pieces} == {10}


def test_passages_keep_lines_whole():
    pieces = passages(sample(1, True, "one two\n\nthree four\nfive six\nseven"), 3, 9)
    assert [piece.text for piece in pieces] == ["one two\nthree four", "five six\nseven"]
    assert [piece.words for piece in pieces] == [4, 3]


def test_a_short_rest_is_left_out_but_never_all_of_a_document():
    assert [piece.words for piece in passages(sample(1, True, "a " * 24), 10, 9)] == [10, 10]
    assert [piece.words for piece in passages(sample(1, True, "a " * 26), 10, 9)] == [10, 10, 6]
    assert [piece.words for piece in passages(sample(1, True, "a b"), 10, 9)] == [2]
    assert passages(sample(1, True, " \n"), 10, 9) == []


def test_texts_on_both_sides_and_doubles_are_taken_out():
    found, removed = without_overlap(
        [sample(1, True, "Same, text."), sample(2, False, "same text"), sample(3, True, "a"), sample(4, True, "A!")]
    )
    assert len(found) == 1
    assert removed == 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=60))
def test_both_sides_have_the_same_lengths(shapes):
    items = [
        piece
        for number, (good, words) in enumerate(shapes)
        for piece in passages(sample(number, good, "w " * words), 20, 3)
    ]
    chosen = balanced(items, 20)
    lengths = [sorted(length_band(item, 20) for item in chosen if item.good == good) for good in (True, False)]
    assert lengths[0] == lengths[1]
    assert chosen == balanced(list(reversed(items)), 20)


def test_the_hold_out_is_a_share_of_the_documents():
    share = np.mean([held_out(sample(number, True, ""), 0.2) for number in range(5000)])
    assert share == pytest.approx(0.2, abs=0.03)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_probability_of_the_right_order(pairs):
    scores, good = np.array([score for score, _ in pairs]), np.array([good for _, good in pairs])
    comparisons = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a, is_good in pairs if is_good for b, also in pairs if not also
    ]
    if comparisons:
        assert auc(scores, good) == pytest.approx(np.mean(comparisons))
    else:
        assert np.isnan(auc(scores, good))


def test_calibration_error():
    scores = np.array([0.05, 0.05, 0.95, 0.95])
    bands = calibration(scores, np.array([False, False, True, False]))
    assert [band["good"] for band in bands] == [0, 0.5]
    assert calibration_error(bands) == pytest.approx((0.05 + 0.45) / 2)
