"""Counting and compressing: probabilities worked out by hand, and the targets that models are measured on."""

import math

import numpy as np
import pytest

from pipeline.shards.format import Row, shard_schema, write_shard
from pipeline.shards.reader import ShardSet
from pipeline.tokenizer import SPECIALS
from training.baselines import count_ngrams, modified_discounts, ngram_of_shards, score_rows_by_ngram

A, B, C = 1, 2, 3


def chances(model, *context: int) -> list[float]:
    return [math.exp(-model.nats(np.array([0, *context, token]))[-1]) for token in (A, B, C)]


def test_bigrams_by_hand() -> None:
    """One piece ``a b a c``. Its bigrams all occur once: nothing to estimate a discount from, so .5.

    Before ``a`` stand two different tokens, before ``b`` and ``c`` one: of such counts 2, 1, 1 the discounts are .5 and 2,
    which leaves (2 + .5 + .5) / 4 to the uniform distribution.
    """
    model = count_ngrams(np.array([0, A, B, A, C]), vocabulary=3, order=2)
    alone = [0 / 4 + 0.75 / 3, 0.5 / 4 + 0.75 / 3, 0.5 / 4 + 0.75 / 3]
    assert chances(model, C) == pytest.approx(alone), "nothing ever stood behind c"
    # Two bigrams begin with a: .5 of each count is taken, and shared out as single tokens are.
    after_a = [0.5 * alone[0], 0.5 / 2 + 0.5 * alone[1], 0.5 / 2 + 0.5 * alone[2]]
    assert chances(model, A) == pytest.approx(after_a)
    assert chances(model) == pytest.approx([0.5 + 0.5 * alone[0], 0.5 * alone[1], 0.5 * alone[2]]), (
        "the piece begins with a"
    )


def test_discounts_by_hand() -> None:
    # Six of 1, three of 2, two of 3, one of 4: the share is 6 / (6 + 2 · 3) = 1/2.
    counts = np.array([1] * 6 + [2] * 3 + [3] * 2 + [4])
    assert modified_discounts(counts) == pytest.approx([1 - 3 / 6, 2 - 3 / 2 * 2 / 3, 3 - 2 * 1 / 2])


@pytest.mark.parametrize("context", [(), (7,), (7, 3), (3, 7, 1), (19, 19, 19)])
def test_probabilities_sum_to_one(context: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    pieces = [[0, 0, 0, *(1 + draw.geometric(0.2, 40) % 20)] for _ in range(30)]
    model = count_ngrams(np.concatenate(pieces).astype(np.int64), vocabulary=20, order=4)
    behind = [model.nats(np.array([0, 0, 0, *context, token]))[-1] for token in range(1, 21)]
    assert np.exp(-np.array(behind)).sum() == pytest.approx(1.0)


def test_text_that_repeats_leaves_something_for_what_is_not_in_it() -> None:
    """Much read ten times, a little once, less twice, most of the rest four times: estimates of nothing or less."""
    draw = np.random.default_rng(1)
    pieces = [[0, 0, 0, *(1 + draw.geometric(0.2, 40) % 20)] for _ in range(30)]
    often = [
        piece
        for place, piece in enumerate(pieces)
        for _ in range(10 if place < 20 else 4 if place < 28 else place - 27)
    ]
    model = count_ngrams(np.concatenate(often).astype(np.int64), vocabulary=20, order=4)
    unseen = np.concatenate([[0, 0, 0], 1 + draw.geometric(0.2, 500) % 20])
    assert np.isfinite(model.nats(unseen)).all()
    behind = [model.nats(np.array([0, 0, 0, *pieces[0][3:6], token]))[-1] for token in range(1, 21)]
    assert np.exp(-np.array(behind)).sum() == pytest.approx(1.0)


def test_rows_are_scored_on_a_models_targets(tmp_path) -> None:
    """A piece's first token and ``</s>`` are no targets, and no piece sees the one before it in its row."""
    end, word = 3, len(SPECIALS) + 1
    schema = shard_schema(word + 2, 8, {"tokenizer_digest": "0", "mixture": {}}, with_bytes=True)
    repeated = Row([np.array([word, word + 1, word, end]), np.array([word, word + 1, end])], 9)
    write_shard(tmp_path / "validation-web.arrow", schema, iter([repeated] * 5), 0)
    held = ShardSet.open(tmp_path, "validation-web")
    scores = score_rows_by_ngram(count_ngrams(np.array([0, word + 1]), word + 2, order=1), held.rows(np.arange(5)))
    assert scores.targets.tolist() == [3] * 5 and scores.bytes.tolist() == [9] * 5
    few = ngram_of_shards(held, word + 2, most_tokens=8)
    assert few.levels[0].total.sum() == 2 + 1 + 2, "one row: what stood before each of its three words"
    every = ngram_of_shards(held, word + 2, most_tokens=1000)
    again = score_rows_by_ngram(every, held.rows(np.arange(1)))
    assert again.bits_per_byte < score_rows_by_ngram(few, held.rows(np.arange(1))).bits_per_byte, (
        "it has seen more of it"
    )
