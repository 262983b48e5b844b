"""Scores of packed rows, and intervals that cover what they should."""

import math

import numpy as np
import pytest
import torch

from pipeline.shards.reader import RowBatch
from tests.training.folders import tiny_model
from training.intervals import Resampling, ratio_interval
from training.scoring import continuation_nats, score_rows


def nats_alone(model: torch.nn.Module, document: np.ndarray) -> float:
    ids = torch.from_numpy(document).unsqueeze(0)
    with torch.no_grad():
        log_probs = model.logits(model(ids[:, :-1])).log_softmax(-1)  # type: ignore[operator]
    return -float(log_probs.gather(-1, ids[:, 1:].unsqueeze(-1)).sum())


def test_a_packed_row_scores_as_its_documents_do_alone() -> None:
    model, random = tiny_model(), np.random.default_rng(0)
    documents = [random.integers(8, 264, size) for size in (7, 12, 4)]
    row = np.concatenate([*documents, np.zeros(5, dtype=np.int64)])
    full = random.integers(8, 264, 28)
    rows = RowBatch(
        np.stack([row, full]), np.array([23, 28]), [np.array([0, 7, 19]), np.array([0])], np.array([60, 90])
    )
    scores = score_rows(model, rows, batch_size=1)
    assert scores.targets.tolist() == [6 + 11 + 3, 27]
    assert scores.nats[0] == pytest.approx(sum(nats_alone(model, document) for document in documents), rel=1e-5)
    assert scores.nats[1] == pytest.approx(nats_alone(model, full), rel=1e-5)
    assert scores.bits_per_byte == pytest.approx(scores.nats.sum() / math.log(2) / 150)


def test_a_continuation_is_scored_after_its_context() -> None:
    model = tiny_model()
    context, continuation = [2, 10, 20, 30], [40, 50, 60]
    whole = nats_alone(model, np.array(context + continuation))
    other = ([2, 9], [11, 12, 13, 14, 15])
    nats = continuation_nats(model, [(context, continuation), other, ([2] * 500, continuation)], batch_size=2)
    assert nats[0] == pytest.approx(whole - nats_alone(model, np.array(context)), rel=1e-4)
    assert nats[1] == pytest.approx(continuation_nats(model, [other])[0], rel=1e-4)
    assert math.isfinite(nats[2])


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        sizes = random.integers(50, 150, 80).astype(float)
        values = sizes * random.normal(2.0, 0.5, 80)
        interval = ratio_interval(values, sizes, Resampling(300, seed=trial))
        covered += interval.low <= 2.0 <= interval.high
    assert 175 <= covered <= 198


def test_pairing_sees_a_difference_that_separate_intervals_do_not() -> None:
    random = np.random.default_rng(2)
    sizes = np.full(60, 100.0)
    left = sizes * random.normal(2.0, 0.8, 60)
    right = left - sizes * random.normal(0.05, 0.02, 60)
    apart = [ratio_interval(values, sizes, Resampling()) for values in (left, right)]
    assert apart[0].low < apart[1].high, "the intervals overlap"
    difference = ratio_interval(left - right, sizes, Resampling())
    assert 0 < difference.low < difference.value < difference.high
    assert ratio_interval(left, sizes, Resampling(seed=3)) == ratio_interval(left, sizes, Resampling(seed=3))
