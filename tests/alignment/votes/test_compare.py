"""Who is shown what: blind, shuffled, shared among annotators, the same after a restart."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from alignment.turns import Message
from alignment.votes.log import LOG, Showing, read_votes
from infra.errors import HeadwaterError, InputError, NotFound
from tests.alignment.votes.room import BAD, GOOD, answer, comparing, side_of, vote_all


def test_every_pair_is_judged_by_as_many_as_the_study_asks_for(tmp_path: Path) -> None:
    with comparing(tmp_path, 12, overlap=2, repeats=0) as found:
        seen = {name: vote_all(found, name, lambda shown: "tie") for name in ("ada", "bo", "cy")}
        assert found.next("ada") is None
    judged = Counter(shown.pair.id for each in seen.values() for shown in each)
    assert len(judged) == 12 and set(judged.values()) == {2}
    assert {name: len(each) for name, each in seen.items()} == {"ada": 12, "bo": 12, "cy": 0}


def test_annotators_at_the_same_time_never_take_each_others_place(tmp_path: Path) -> None:
    names = [f"annotator {number}" for number in range(8)]
    with comparing(tmp_path, 24, overlap=1, repeats=0) as found:
        threads = [threading.Thread(target=vote_all, args=(found, name, lambda shown: "left")) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        standing = list(found.log.votes.standing.values())
    assert len(standing) == len({vote.shown.pair.id for vote in standing}) == 24
    assert [vote.when for vote in read_votes(tmp_path / LOG).standing.values()] == [vote.when for vote in standing]


def test_sides_are_shuffled_and_hang_on_the_seed_alone(tmp_path: Path) -> None:
    def sides(folder: str, seed: int) -> list[tuple[str, str]]:
        with comparing(tmp_path / folder, 40, repeats=0, seed=seed) as found:
            return [(shown.pair.prompt_id, shown.left) for shown in vote_all(found, "ada", lambda shown: "tie")]

    first = sides("one", 0)
    assert first == sides("two", 0) != sides("three", 1)
    assert 10 <= sum(left == "a" for _, left in first) <= 30


def test_what_an_annotator_sees_does_not_say_who_wrote_it(tmp_path: Path) -> None:
    with comparing(tmp_path, 1) as found:
        showing = found.next("ada")
        assert showing is not None
        view = found.view(showing)
    assert view.keys() == {"id", "prompt", "left", "right"} and view["left"].keys() == {"text"}
    assert {view["left"]["text"], view["right"]["text"]} == {showing.pair.a, showing.pair.b}
    assert GOOD.dataset not in str(view) and view["id"] != showing.pair.id


def test_repeats_come_back_the_other_way_round(tmp_path: Path) -> None:
    with comparing(tmp_path, 20, repeats=0.25) as found:
        seen = vote_all(found, "ada", lambda shown: side_of(shown, GOOD))
        row = found.board()["annotators"][0]
    repeats = [shown for shown in seen if shown.repeat]
    assert len(repeats) == 5 and len(seen) == 25
    for shown in repeats:
        before = next(each for each in seen if each.pair.id == shown.pair.id and not each.repeat)
        assert shown.left == before.right and seen.index(shown) - seen.index(before) > 3
    assert (row["votes"], row["repeats"], row["consistency"]) == (20, 5, 1.0)


def test_who_always_says_left_is_not_consistent(tmp_path: Path) -> None:
    with comparing(tmp_path, 20, repeats=0.25) as found:
        vote_all(found, "ada", lambda shown: "left")
        row = found.board()["annotators"][0]
    assert (row["consistency"], row["left"], row["right"]) == (0.0, 20, 0)


def test_undo_brings_the_pair_back_as_it_stood(tmp_path: Path) -> None:
    with comparing(tmp_path, 3, repeats=0) as found:
        first = vote_all(found, "ada", lambda shown: "left", most=1)[0]
        other = found.next("ada")
        back = found.undo("ada")
        assert (back.pair, back.left) == (first.pair, first.left)
        assert found.next("ada") == back and other is not None and other.pair != back.pair
        found.vote("ada", back.id, "right", 1)
        assert found.progress("ada") == {"done": 1, "total": 3, "votes": 1}
        found.undo("ada")
        with pytest.raises(InputError, match="no vote of yours"):
            found.undo("ada")
    assert read_votes(tmp_path / LOG).taken_back == {"undone": 2}


def test_a_second_vote_takes_the_place_of_the_first(tmp_path: Path) -> None:
    with comparing(tmp_path, 2, repeats=0) as found:
        showing = found.next("ada")
        assert showing is not None
        assert [found.vote("ada", showing.id, choice, 1)[1] for choice in ("left", "left", "both_bad")] == [
            False, True, True,
        ]  # fmt: skip
        for stranger, pair in (("bo", showing.id), ("ada", "nothing"), ("ada", showing.pair.id)):
            with pytest.raises(NotFound, match="there is no pair"):
                found.vote(stranger, pair, "left", 1)
    votes = read_votes(tmp_path / LOG)
    assert [vote.winner for vote in votes.standing.values()] == ["both_bad"] and votes.taken_back == {"replaced": 2}


def test_a_restart_goes_on_where_it_was_with_the_same_answers(tmp_path: Path) -> None:
    with comparing(tmp_path, 6, repeats=0, overlap=2) as found:
        vote_all(found, "ada", lambda shown: "left", most=3)
        before = found.next("ada")
        known = dict(found.log.votes.pairs)
    calls: list[str] = []

    def other(model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
        calls.append(messages[-1].content)
        return f"{model}, new"

    with comparing(tmp_path, 6, repeats=0, overlap=2, speak=other) as found:
        assert found.next("ada") == before
        vote_all(found, "bo", lambda shown: "left")
        assert known.items() <= found.log.votes.pairs.items()
        assert not {pair.prompt[-1].content for pair in known.values()} & set(calls)


def test_a_pair_that_nobody_judged_in_time_goes_to_another(tmp_path: Path) -> None:
    now = [0.0]
    with comparing(tmp_path, 2, repeats=0, hold_minutes=10, clock=lambda: now[0]) as found:
        first, second = found.next("ada"), found.next("bo")
        assert first and second and first.pair != second.pair and found.next("cy") is None
        now[0] = 601.0
        third = found.next("cy")
        assert third and third.pair in (first.pair, second.pair)
        found.vote("cy", third.id, "left", 1)
        # Who had it before is given something else, or nothing.
        late = "ada" if third.pair == first.pair else "bo"
        assert found.next(late) != (first if late == "ada" else second)


def test_answers_that_cannot_be_told_apart_are_shown_to_nobody(tmp_path: Path) -> None:
    def dull(model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
        number = int(messages[-1].content.split()[-1])
        return "" if number == 0 and model == "bad" else "the same" if number == 1 else f"{model} {sampling['seed']}"

    with comparing(tmp_path, 4, repeats=0, speak=dull) as found:
        seen = vote_all(found, "ada", lambda shown: "left")
        assert found.progress("ada") == {"done": 2, "total": 2, "votes": 2}
    assert sorted(shown.pair.prompt[0].content for shown in seen) == ["question 2", "question 3"]


def test_a_typed_prompt_is_answered_first_for_who_typed_it(tmp_path: Path) -> None:
    def content(showing: Showing | None) -> str:
        assert showing is not None
        return showing.pair.prompt[0].content

    with comparing(tmp_path, 3, repeats=0, overlap=2) as found:
        found.add_prompt("ada", "  why? ")
        assert content(found.next("ada")) == "why?" and content(found.next("bo")) != "why?"
        assert "why?" in [shown.pair.prompt[0].content for shown in vote_all(found, "bo", lambda shown: "tie")]
        for text, sentence in (("  ", "empty"), ("x" * 8001, "8,001 characters")):
            with pytest.raises(InputError, match=sentence):
                found.add_prompt("ada", text)
    with comparing(tmp_path, 3, repeats=0, overlap=2) as found:
        assert content(found.next("ada")) == "why?"


def test_one_model_is_compared_with_itself_but_not_without_chance(tmp_path: Path) -> None:
    with comparing(tmp_path / "one", 3, contenders=[GOOD]) as found:
        seen = vote_all(found, "ada", lambda shown: "left")
        assert len(seen) == 3 and all(shown.pair.models == (GOOD.dataset,) * 2 for shown in seen)
        assert found.board()["models"][0]["rating"] is None
    with pytest.raises(InputError, match="same answer twice"), comparing(tmp_path, contenders=[GOOD], temperature=0):
        pass


def test_without_models_what_is_answered_can_be_judged(tmp_path: Path) -> None:
    with comparing(tmp_path, 3, repeats=0, ahead=3) as found:
        vote_all(found, "ada", lambda shown: "left", most=1)
        for future in list(found._making.values()):
            future.result()
    with comparing(tmp_path, 3, contenders=(), repeats=0) as found:
        assert len(vote_all(found, "ada", lambda shown: "left")) == 2
        with pytest.raises(InputError, match="no model that chats"):
            found.add_prompt("ada", "why?")


def test_an_answer_that_fails_is_asked_for_again_unless_the_prompt_is_to_blame(tmp_path: Path) -> None:
    errors: list[Exception] = [HeadwaterError("32 replies wait already")]

    def speak(model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
        if errors:
            raise errors.pop()
        return f"{model} {sampling['seed']}"

    with comparing(tmp_path, 2, speak=speak, repeats=0) as found:
        with pytest.raises(HeadwaterError, match="32 replies"):
            found.next("ada")
        errors.append(InputError("the prompt is longer than the context"))
        assert len(vote_all(found, "ada", lambda shown: "left")) == 1 and len(found.log.votes.useless) == 1


def test_who_waits_for_answers_holds_the_place(tmp_path: Path) -> None:
    may_speak = threading.Event()

    def speak(model: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
        may_speak.wait(10)
        return answer(model, messages, sampling)

    with comparing(tmp_path, 2, speak=speak, repeats=0) as found:
        first, second = found.offer("ada"), found.offer("bo")
        assert isinstance(first, Future) and isinstance(second, Future) and first is not second
        assert found.offer("cy") is None and found.offer("ada") is first
        may_speak.set()
        shown = [found.next("bo"), found.next("ada")]
        assert all(shown) and len({each.pair.id for each in shown if each}) == 2


def test_three_models_meet_in_turn(tmp_path: Path) -> None:
    third = GOOD.__class__("third", "ppo/cccccccccccc")
    with comparing(tmp_path, 6, contenders=[GOOD, BAD, third], per_prompt=2, repeats=0) as found:
        vote_all(found, "ada", lambda shown: "tie")
        met = Counter(pair.models for pair in found.log.votes.pairs.values())
    assert len(met) == 3 and set(met.values()) == {4}
