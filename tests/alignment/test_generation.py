"""What is said of a model that talks on, says too much or repeats itself; and of one that was trained too long."""

import re

import numpy as np
import pytest

from alignment.best import Figure
from alignment.generation import ReplyFigures, complaints, repeated_share

PEOPLE = np.full(50, 21)


def spoken(ended: float, tokens: float = 20, repeated: float = 0.0, number: int = 100) -> ReplyFigures:
    noise = np.random.default_rng(0).normal(0, 1, number)
    return ReplyFigures((np.arange(number) < ended * number).astype(float), tokens + noise, repeated + noise / 100)


def test_the_runs_of_a_reply_that_were_there_before() -> None:
    assert repeated_share([1, 2, 3]) == repeated_share([]) == repeated_share(list(range(9))) == 0
    assert repeated_share([5] * 8) == pytest.approx(4 / 5)
    assert repeated_share([1, 2, 3, 4] * 2) == pytest.approx(1 / 5)


def test_a_model_that_does_as_before_is_not_complained_of() -> None:
    assert complaints(spoken(0.99), spoken(0.97, 24, 0.02), PEOPLE, 128, 0) == []
    assert complaints(spoken(0.0, 128), spoken(0.98, 20), PEOPLE, 128, 0) == [], "shorter because it learnt to stop"
    assert complaints(spoken(0.76, 23), spoken(0.9, 18), PEOPLE, 40, 0, chosen_to_fit=True) == []


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (spoken(0.99), spoken(0.63, 87), "unlearns to stop: 99% of its replies to held-out prompts ended within 128"),
        (spoken(0.0), spoken(0.2), "has not learnt to stop: 20% of its replies .* 100% of people's"),
        (spoken(0.99, 20), spoken(0.98, 45), "grow from 20 to 45 tokens"),
        (spoken(0.99, 24), spoken(0.98, 14), r"shrink from 24 to 14 tokens \(people's: 21\)"),
        (spoken(0.99), spoken(0.98, 20, 0.3), "repeats itself: 30%"),
    ],
)
def test_what_it_does_worse_is_a_sentence(before: ReplyFigures, after: ReplyFigures, words: str) -> None:
    (sentence,) = complaints(before, after, PEOPLE, 128, 0)
    assert re.search(words, sentence)


def test_a_few_prompts_prove_nothing() -> None:
    assert complaints(spoken(1.0, number=4), spoken(0.75, number=4), PEOPLE, 128, 0) == []


def test_a_later_figure_is_worse_only_beyond_noise() -> None:
    loss, accuracy = Figure("loss", lower_is_better=True, noise=0.01), Figure("accuracy", noise=0.03)
    assert loss.better(2.0, 2.1) and not loss.better(2.1, 2.1)
    assert loss.worse(2.03, 2.0) and not loss.worse(2.01, 2.0)
    assert accuracy.better(0.8, 0.7) and accuracy.worse(0.66, 0.7) and not accuracy.worse(0.68, 0.7)
