"""The judge behind a server: what survives the swap counts, and what goes wrong is one sentence."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignment.judge import KEY, Duel, Server, check_address, judge, read_answer
from infra.errors import ConfigError, InputError

DUELS = [Duel(f"prompt {number}", f"a good reply {number}", f"bad {number}") for number in range(6)]
Answer = Callable[[str], tuple[int, str]]


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
                self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

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
     ("A is better than B", "tie"), ("neither", "tie")],
)  # fmt: skip
def test_answers_are_read_with_care(text: str, word: str) -> None:
    assert read_answer(text) == word


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
