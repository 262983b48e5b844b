"""The judge behind a server: what survives the swap counts, and what goes wrong is one sentence."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignment.judge import (
    KEY,
    Answers,
    Ask,
    Duel,
    Estimate,
    OutsideJudge,
    OutsideReward,
    Server,
    asked_judge,
    check_address,
    check_cost,
    estimate,
    outside_judge,
    read_answer,
    settle,
)
from alignment.verdicts import krippendorff, length_controlled, majority, verdict
from infra.errors import ConfigError, InputError

DUELS = [Duel(f"prompt {number}", f"a good reply {number}", f"bad {number}") for number in range(6)]
Answer = Callable[[str], tuple[int, str | None]]


def judge(duels: list[Duel], ask: Ask) -> dict[str, Any]:
    return verdict(duels, settle(duels, [asked_judge("referee", ask)]))


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], tuple[Server, list[dict[str, object]]]]]:
    """Start a server that answers questions by a function; it remembers what it was sent."""
    running = []

    def start(answer: Answer) -> tuple[Server, list[dict[str, object]]]:
        seen: list[dict[str, object]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                status, text = answer(body["messages"][0]["content"])
                self.send_response(status)
                self.end_headers()
                ended = "stop" if text and text.endswith((".", "A", "B")) else "length"
                choice = {"message": {"content": text}, "finish_reason": ended}
                self.wfile.write(json.dumps({"choices": [choice]}).encode())

            def log_message(self, *arguments: object) -> None:
                return None

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return Server(f"http://127.0.0.1:{server.server_port}/v1/", "referee", timeout_s=10, pause_s=0.01), seen

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def replies(question: str) -> tuple[str, str]:
    return question.split("[Reply A]\n")[1].split("\n")[0], question.split("[Reply B]\n")[1].split("\n")[0]


def likes_good(question: str) -> tuple[int, str]:
    first, _ = replies(question)
    return 200, "A" if "good" in first else "B."


def test_a_preference_that_survives_the_swap_counts(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    server, seen = serve(likes_good)
    view = judge(DUELS, server.ask)
    assert (view["wins"], view["losses"], view["flipped"], view["longer_won"]) == (6, 0, 0, 1.0)
    assert view["win_rate"]["value"] == 1.0
    other = judge([Duel(duel.prompt, duel.right, duel.left) for duel in DUELS], server.ask)
    assert (other["wins"], other["losses"], other["win_rate"]["value"]) == (0, 6, 0.0)
    assert {(call["path"], call["key"], call["model"]) for call in seen} == {
        ("/v1/chat/completions", "Bearer secret", "referee")
    }


def test_a_judge_that_favours_a_place_decides_nothing(serve) -> None:
    server, _ = serve(lambda question: (200, "A"))
    view = judge(DUELS, server.ask)
    assert (view["wins"], view["losses"], view["flipped"]) == (0, 0, 6)
    assert view["win_rate"]["value"] == 0.5 and view["longer_won"] is None


def test_equal_replies_are_not_asked_about(serve) -> None:
    server, seen = serve(likes_good)
    assert judge([Duel("p", "same", "same")], server.ask)["ties"] == 1
    assert not seen


@pytest.mark.parametrize(
    ("text", "word"),
    [("A", "A"), (" B.\n", "B"), ("Reply B", "B"), ("It is a tie", "tie"), ("A tie", "tie"), ("", "tie"),
     ("A is better than B", "tie"), ("neither", "tie"), ("<think>A is short, B right</think>\n\nB", "B"), ("A?</think>B", "B")],
)  # fmt: skip
def test_answers_are_read_with_care(text: str, word: str) -> None:
    assert read_answer(text) == word


@pytest.mark.parametrize("said", [None, "", "<think>A is short"])
def test_a_judge_that_was_cut_off_in_its_thoughts_has_not_said_that_both_are_alike(serve, said: str | None) -> None:
    server, _ = serve(lambda question: (200, said))
    with pytest.raises(InputError, match="cut off after 256 tokens"):
        judge(DUELS, server.ask)


def test_a_busy_server_is_asked_again(serve) -> None:
    turns = iter([503, 429, 500])

    def answer(question: str) -> tuple[int, str]:
        return next(turns, 200), "A"

    server, seen = serve(answer)
    assert server.ask("?") == "A" and len(seen) == 4


def test_a_refusal_is_one_sentence_without_the_key(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    server, seen = serve(lambda question: (401, ""))
    with pytest.raises(InputError, match="answers 401") as caught:
        judge(DUELS, server.ask)
    assert "secret" not in str(caught.value)
    assert len(seen) <= len(DUELS), "a refusal is not repeated"


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        Server("http://127.0.0.1:9/v1", "referee", timeout_s=1, pause_s=0.001).ask("?")
    with pytest.raises(ConfigError, match="no address"):
        check_address("file:///etc/passwd")


def test_an_interrupted_judging_goes_on_with_what_is_missing(serve, tmp_path: Path) -> None:
    path, turns = tmp_path / "answers.jsonl", iter(range(7))

    def breaks(question: str) -> tuple[int, str]:
        return (401, "") if next(turns, 99) == 99 else likes_good(question)

    server, seen = serve(breaks)
    with pytest.raises(InputError):
        settle(DUELS, [asked_judge("referee", server.ask, Answers(path, "referee"), 8)], parallel=1)
    assert 8 <= len(seen) < 2 * len(DUELS), "a refusal ends it"
    path.write_bytes(path.read_bytes()[:-5])  # the last line is cut by a kill
    server, seen = serve(likes_good)
    again = asked_judge("referee", server.ask, Answers(path, "referee"), 8)
    assert estimate(DUELS, [again]).calls == 2 * len(DUELS) - 6
    assert verdict(DUELS, settle(DUELS, [again]))["wins"] == len(DUELS)
    assert len(seen) == 2 * len(DUELS) - 6
    done = asked_judge("referee", server.ask, Answers(path, "referee"), 8)
    settle(DUELS, [done])
    assert len(seen) == 2 * len(DUELS) - 6 and estimate(DUELS, [done]).calls == 0
    assert estimate(DUELS, [asked_judge("other", server.ask, Answers(path, "other"), 8)]).calls == 2 * len(DUELS)


def test_what_would_cost_too_much_does_not_start(serve) -> None:
    server, seen = serve(likes_good)
    judges = [asked_judge(name, server.ask, answer_tokens=10) for name in ("a", "b")]
    found = estimate([*DUELS, Duel("p", "same", "same")], judges, price_in=2.0, price_out=100.0)
    questions = [question for duel in DUELS for question in duel.questions]
    assert found.calls == 2 * len(questions) and found.tokens_out == 20 * len(questions)
    assert found.tokens_in == pytest.approx(2 * sum(map(len, questions)) / 3.5, rel=0.02)
    assert found.cost == pytest.approx((2 * found.tokens_in + 100 * found.tokens_out) / 1e6)
    check_cost(found, found.cost)
    with pytest.raises(InputError, match="at most 0.01 is allowed"):
        check_cost(found, 0.01)
    with pytest.raises(ConfigError, match="not known"):
        check_cost(Estimate(4, 100, 40), 1.0)
    assert not seen


def test_judges_and_rewards_of_other_packages() -> None:
    shorter = outside_judge("shorter", OutsideReward(lambda prompt, reply: -len(reply), tie=1))
    word = outside_judge("word", OutsideJudge(lambda question: likes_good(question)[1]))
    found = settle([*DUELS, Duel("p", "abc", "ab")], [shorter, word])
    assert found["shorter"] == ["right"] * 6 + ["tie"] and found["word"][:6] == ["left"] * 6
    view = verdict(DUELS, {name: outcomes[:6] for name, outcomes in found.items()})
    assert view["ties"] == 6 and view["judges"]["word"]["wins"] == 6 and view["agreement"] < 0
    with pytest.raises(InputError, match="scores a reply nan"):
        settle(DUELS, [outside_judge("bad", OutsideReward(lambda prompt, reply: float("nan")))])


def test_most_judges_decide() -> None:
    assert majority([["left", "left", "tie"], ["left", "right", "tie"], ["right", "tie", "left"]]) == [
        "left",
        "tie",
        "tie",
    ]


@pytest.mark.parametrize(
    ("ratings", "alpha"),
    [
        # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), examples A to C; nominal.
        (["0100000010", "1110010000"], 0.095),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
    ],
)  # fmt: skip
def test_alpha_is_that_of_its_author(ratings: list[str], alpha: float) -> None:
    found = krippendorff([[None if value == "." else value for value in each] for each in ratings])
    assert found == pytest.approx(alpha, abs=5e-4)


def test_nothing_to_disagree_on_has_no_alpha() -> None:
    assert krippendorff([["a", "a"], ["a", "a"]]) is None and krippendorff([["a", None], [None, "b"]]) is None
    assert krippendorff([["a", "b"], ["a", "b"]]) == 1


def test_what_only_length_won_is_no_win_between_replies_of_one_length() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(20, 200, (600, 2))
    lengths[:, 0] += 60  # the left model says more
    duels = [Duel("p", "x" * int(left), "y" * int(right)) for left, right in lengths]
    spread = float(np.std(lengths[:, 0] - lengths[:, 1]))
    pull = np.tanh((lengths[:, 0] - lengths[:, 1]) / spread)

    def rate(better: float) -> tuple[float, dict[str, float | int]]:
        points = (random.random(600) < 1 / (1 + np.exp(-(better + 2 * pull)))).astype(float)
        return float(points.mean()), length_controlled(points, duels)

    raw, even = rate(0.0)
    assert raw > 0.65 and even["low"] < 0.5 < even["high"]
    raw, even = rate(1.0)
    assert even["low"] < 1 / (1 + np.exp(-1)) < even["high"] and even["value"] < raw
    same = length_controlled(np.array([1.0, 0.0, 1.0, 1.0] * 50), [Duel("p", "ab", "cd")] * 200)
    assert same["value"] == pytest.approx(0.75, abs=0.01)
    assert length_controlled(np.ones(50), [Duel("p", "abc", "d")] * 50)["value"] < 1
