"""A keep fraction becomes a threshold: as fine as the scores, whatever the order of files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipeline.quality.histogram import add_histograms, bins_of, lower_edge, score_histogram, threshold_for

SCORES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(SCORES)
def test_bins_keep_the_order_and_their_edges_hold(scores):
    values = np.sort(np.array(scores, np.float32))
    bins = bins_of(values)
    assert (np.diff(bins) >= 0).all()
    for value, index in zip(values, bins, strict=True):
        assert lower_edge(int(index)) <= float(value)
        assert value == 1 or float(value) < lower_edge(int(index) + 1)


@settings(max_examples=40, deadline=None)
@given(SCORES, st.floats(0.01, 1))
def test_the_threshold_keeps_at_least_the_share_asked_for(scores, fraction):
    values = np.array(scores, np.float32)
    halves = [score_histogram("web", part) for part in (values[::2], values[1::2])]
    threshold = threshold_for(add_histograms(halves)["web"], fraction)
    assert threshold == threshold_for(add_histograms(reversed(halves))["web"], fraction)
    kept = values.astype(np.float64) >= threshold
    assert kept.sum() >= fraction * len(values) - 1e-9
    # and no more than needed, but for scores in the threshold's own bin
    above = bins_of(values) > bins_of(values[kept]).min()
    assert above.sum() < fraction * len(values) or above.sum() == 0


def test_crowded_scores_near_one_are_told_apart():
    scores = np.array([1 - 1e-6, 1 - 1.5e-6, 1 - 3e-6, 1 - 8e-6], np.float32)
    threshold = threshold_for(add_histograms([score_histogram("web", scores)])["web"], 0.5)
    assert (scores.astype(np.float64) >= threshold).sum() == 2


def test_nothing_to_keep_a_share_of():
    with pytest.raises(InputError, match="no document passes"):
        threshold_for(np.zeros(10, np.int64), 0.5)
