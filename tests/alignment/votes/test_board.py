"""The figures of the board: right on votes whose law is known, and honest where there are few."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from alignment.turns import Message
from alignment.verdicts import alpha_interval, krippendorff
from alignment.votes.board import ELO, board, ratings
from alignment.votes.log import AnswerPair, Showing, Vote, Winner


def vote(
    models: tuple[str, str], winner: Winner, number: int, *, who: str = "ada", repeat: bool = False,
    texts: Sequence[str] = ("x", "y"),
) -> Vote:  # fmt: skip
    pair = AnswerPair(f"pair {number}", f"prompt {number}", (Message("user", "?"),), *texts, models, {})
    return Vote(Showing(f"{number}/{who}/{repeat}", pair, who, "b" if repeat else "a", repeat, 0.0), winner, 4.0, 0.0)


def drawn(
    random: np.random.Generator, strength: dict[str, float], number: int, each: int = 1, ties: float = 0.2
) -> list[Vote]:
    """Votes by Bradley-Terry with ties; the annotators of a prompt lean to the same side."""
    votes = []
    names = list(strength)
    for prompt in range(number):
        a, b = (names[at] for at in random.choice(len(names), 2, replace=False))
        lean = random.normal(0, 1)
        for judge in range(each):
            if random.random() < ties:
                winner: Winner = "tie"
            else:
                winner = "a" if random.random() < 1 / (1 + np.exp(strength[b] - strength[a] - lean)) else "b"
            votes.append(vote((a, b), winner, prompt, who=f"judge {judge}"))
    return votes


def test_intervals_hold_what_would_come_out_on_other_prompts() -> None:
    """95 % of them hold the limit of many prompts, which the lean and the ties draw to the middle."""
    strength = {"one": 0.0, "two": 0.5, "three": 1.0}
    random = np.random.default_rng(0)
    limit = ratings(drawn(random, strength, 6000), list(strength))
    inside = [
        low <= (limit[name][0] or 0) <= high
        for _ in range(60)
        for name, (_, low, high) in ratings(drawn(random, strength, 60, each=3), list(strength)).items()
        if low is not None and high is not None
    ]
    assert len(inside) == 180 and 0.90 <= np.mean(inside) <= 0.99


def test_the_order_of_three_models_and_their_tallies() -> None:
    votes = [vote(("one", "two"), "a", n) for n in range(30)] + [vote(("two", "three"), "a", n + 30) for n in range(30)]
    votes += [vote(("three", "one"), "both_bad", 60), vote(("one", "three"), "tie", 61)]
    found = board(votes)
    assert [row["model"] for row in found["models"]] == ["one", "two", "three"]
    assert [(r["votes"], r["wins"], r["losses"], r["ties"], r["both_bad"]) for r in found["models"]] == [
        (32, 30, 0, 1, 1), (60, 30, 30, 0, 0), (32, 0, 30, 1, 1),
    ]  # fmt: skip
    assert sum(row["rating"] for row in found["models"]) == pytest.approx(3000)
    assert found["votes"] == 62 and found["left_won"]["value"] == 1


def test_few_wins_are_not_sure_and_even_votes_are_even() -> None:
    def won(number: int) -> tuple[float, float]:
        """The interval of the winner's odds, as logits."""
        _, low, high = ratings([vote(("one", "two"), "a", n) for n in range(number)], ["one", "two"])["one"]
        assert low is not None and high is not None
        return 2 * (low - 1000) / ELO, 2 * (high - 1000) / ELO

    # The exact interval of 10 wins of 10 begins at odds of 2.2 to 1.
    assert -0.5 < won(10)[0] < 0.8 < won(40)[0] and won(10)[1] > 5
    even = ratings([vote(("one", "two"), "a" if n % 2 else "b", n) for n in range(40)], ["one", "two"])
    assert even["one"][0] == pytest.approx(1000)


def test_models_that_never_met_are_not_told_apart() -> None:
    votes = [vote(("one", "two"), "a" if n % 2 else "b", n) for n in range(400)]
    votes += [vote(("three", "four"), "a" if n % 2 else "b", n + 400) for n in range(400)]
    found = ratings(votes, ["one", "two", "three", "four"])
    assert all(high - low > 400 for _, low, high in found.values() if low is not None and high is not None)


def test_length_is_taken_out() -> None:
    """Who only writes more wins the votes, and not the rating between answers of one length."""
    random, votes = np.random.default_rng(1), []
    for number in range(600):
        long, short = int(random.integers(20, 80)), int(random.integers(10, 60))
        winner: Winner = "a" if random.random() < 1 / (1 + np.exp(-(long - short) / 15)) else "b"
        votes.append(vote(("wordy", "terse"), winner, number, texts=("x" * long, "y" * short)))
    rows = {row["model"]: row for row in board(votes)["models"]}
    assert rows["wordy"]["low"] > 1000 > rows["terse"]["high"]
    assert rows["wordy"]["low_length_controlled"] < 1000 < rows["wordy"]["high_length_controlled"]
    assert rows["wordy"]["mean_characters"] > rows["terse"]["mean_characters"]


def test_agreement_is_krippendorffs_alpha_with_an_interval() -> None:
    ratings_of = [
        ["a", "b", "a", None, "tie", "b"],
        ["a", "b", "b", "a", "tie", None],
        ["a", "b", "a", "a", None, None],
    ]
    found = alpha_interval(ratings_of)
    assert found is not None and found.value == krippendorff(ratings_of) and found.low <= found.value <= found.high
    assert alpha_interval([["a", None], [None, "a"]]) is None and alpha_interval([["a", "a"]] * 2) is None
    votes = [vote(("one", "two"), winner, n, who=who) for n in range(60) for who, winner in judged(n)]
    view = board(votes)["agreement"]
    assert view["pairs"] == 60 and view["low"] < view["alpha"] < view["high"] and view["alpha"] > 0.5


def judged(number: int) -> list[tuple[str, Winner]]:
    truth: Winner = "a" if number % 3 else "b"
    slip: Winner = "tie" if number % 10 == 0 else truth
    return [("ada", truth), ("bo", slip)]


def test_an_annotator_who_guesses_is_seen() -> None:
    random = np.random.default_rng(2)
    guess: Callable[[], Winner] = lambda: "ab"[random.integers(2)]  # type: ignore[return-value] # noqa: E731
    votes = [vote(("one", "two"), "a", n, who=who) for n in range(40) for who in ("ada", "bo")]
    votes += [vote(("one", "two"), guess(), n, who="cy") for n in range(40)]
    votes += [vote(("one", "two"), guess(), n, who="cy", repeat=True) for n in range(20)]
    votes += [vote(("one", "two"), "a", n, who="ada", repeat=True) for n in range(20)]
    rows = {row["name"]: row for row in board(votes)["annotators"]}
    assert rows["ada"]["consistency"] == 1 and rows["bo"]["consistency"] is None
    assert 0.2 < rows["cy"]["consistency"] < 0.8 and rows["cy"]["agrees_with_others"] < rows["bo"]["agrees_with_others"]
    assert rows["cy"]["repeats"] == 20 and rows["cy"]["votes"] == 40 and rows["cy"]["median_seconds"] == 4


def test_a_board_of_nothing() -> None:
    assert board([])["models"] == [] and board([])["agreement"]["alpha"] is None
