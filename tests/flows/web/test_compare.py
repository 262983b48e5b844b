"""Comparisons as a browser asks for them, and a server that is killed while people vote."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alignment.votes.annotators import Annotators
from alignment.votes.log import LOG, read_votes
from alignment.votes.study import GUIDELINES, Study, save_study
from flows.web import compare
from flows.web.compare import answer_of
from flows.web.guard import digest
from flows.web.site import ServeSettings, Site
from tests.alignment.votes.room import BAD, GOOD, answer, comparing
from tests.flows.web.sites import client_of, empty_site, site_with_models
from tests.support import REPOSITORY
from tests.training.folders import TEMPLATE


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A workspace with ten prompts, and two models that answer at once."""
    found = empty_site(tmp_path / "workspace")
    prepare(found.votes_folder)
    answered(found.votes_folder)
    return found


def prepare(folder: Path, **settings: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("".join(f"question {number}\n" for number in range(10)))
    save_study(folder, Study(prompts=(str(folder / "prompts.txt"),), repeats=0, **settings))


def answered(folder: Path, number: int = 10) -> None:
    """Put the answers of so many prompts on record; a server without models shows them."""
    with comparing(folder, number, ahead=number) as found:
        for planned in found._plan.values():
            found._generate(planned).result()


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with client_of(site) as found:
        yield found


def test_from_the_first_pair_to_the_board(client: TestClient, site: Site) -> None:
    mine = {"X-Annotator": "Ad%C3%A8le"}
    shown = client.get("/api/compare/next", headers=mine).json()
    assert shown["annotator"] == "Adèle" and shown["progress"] == {"done": 0, "total": 10, "votes": 0}
    assert shown["guidelines"] == (site.votes_folder / GUIDELINES).read_text()
    assert GOOD.dataset not in json.dumps(shown) and shown["pair"]["prompt"][0]["role"] == "user"
    assert client.get("/api/compare/next", headers=mine).json()["pair"] == shown["pair"]

    def vote(winner: str, pair: str) -> Any:
        return client.post("/api/compare/vote", headers=mine, json={"pair": pair, "winner": winner, "seconds": 2.5})

    first = vote("left", shown["pair"]["id"]).json()
    assert (first["vote"]["replaced"], first["progress"]["done"]) == (False, 1)
    assert vote("left", shown["pair"]["id"]).json()["vote"]["replaced"] is True
    back = client.post("/api/compare/undo", headers=mine).json()
    assert back["pair"]["left"] == shown["pair"]["left"] and back["progress"]["done"] == 0
    for _ in range(10):
        pair = client.get("/api/compare/next", headers=mine).json()["pair"]
        assert vote("left" if pair["left"]["text"].startswith("good") else "right", pair["id"]).status_code == 200
    assert client.get("/api/compare/next", headers=mine).status_code == 204
    board = client.get("/api/compare/board", headers=mine).json()
    assert [row["model"] for row in board["models"]] == [GOOD.dataset, BAD.dataset]
    assert board["models"][0]["wins"] == 10 and board["annotators"][0]["name"] == "Adèle"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"pair": "nothing", "winner": "left", "seconds": 1}, 404),
        ({"pair": "nothing", "winner": "middle", "seconds": 1}, 400),
        ({"pair": "nothing", "winner": "left", "seconds": -1}, 400),
        ({"pair": "nothing", "winner": "left"}, 400),
        ({"pair": "x" * 1000, "winner": "left", "seconds": 1}, 400),
    ],
)
def test_votes_that_are_none(client: TestClient, site: Site, body: dict[str, Any], status: int) -> None:
    told = client.post("/api/compare/vote", json=body)
    assert told.status_code == status and told.json().keys() == {"error", "where", "remedy"}
    assert not read_votes(site.votes_folder / LOG).standing


def test_a_link_tells_who_votes_and_without_one_nobody_does(client: TestClient, site: Site) -> None:
    token = Annotators(site.votes_folder).add("Bo")
    assert client.get("/api/compare/next", headers={"X-Annotator": token}).json()["annotator"] == "Bo"
    for header in ({}, {"X-Annotator": "Bo"}, {"X-Annotator": token[:-1]}):
        assert client.get("/api/compare/next", headers=header).status_code == 401
    assert client.get("/api/compare/board").status_code == 200
    Annotators(site.votes_folder).remove("Bo")
    assert client.get("/api/compare/next", headers={"X-Annotator": token}).status_code == 401


def test_who_has_a_key_may_vote_but_not_under_an_annotators_name(site: Site) -> None:
    token = Annotators(site.votes_folder).add("Bo")
    settings = ServeSettings(keys=frozenset({digest(KEY)}))
    keyed = Site(site.store, {}, settings, annotator=Annotators(site.votes_folder).name_of)

    with client_of(keyed) as client:

        def asked(**headers: str) -> Any:
            return client.get("/api/compare/next", headers={k.replace("_", "-"): v for k, v in headers.items()})

        assert asked(X_Annotator=token).json()["annotator"] == "Bo"
        assert asked(Authorization=f"Bearer {KEY}").json()["annotator"] == "me"
        assert asked(Authorization=f"Bearer {KEY}", X_Annotator="bo").status_code == 401
        assert asked(X_Annotator="me").status_code == asked().status_code == 401
        assert client.get("/v1/models", headers={"X-Annotator": token}).status_code == 403


def test_where_a_model_is_wanted_and_there_is_none(client: TestClient) -> None:
    assert client.post("/api/compare/prompt", json={"text": "why?"}).status_code == 400
    assert client.post("/api/compare/undo").status_code == 400


def test_models_answer_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = empty_site(tmp_path)
    prepare(site.votes_folder)
    may_speak = threading.Event()

    def speak(site: Site, name: str, messages: Any, sampling: Any) -> str:
        assert may_speak.wait(20)
        return answer(name, messages, sampling)

    monkeypatch.setattr(compare, "answer_of", speak)
    monkeypatch.setattr(compare, "contenders_of", lambda site: [GOOD, BAD])
    with client_of(site) as client, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.get, "/api/compare/next", headers={"X-Annotator": f"n{i}"}) for i in range(8)]
        time.sleep(0.2)
        assert client.get("/api/compare/board").json()["votes"] == 0
        may_speak.set()
        pairs = [future.result().json()["pair"] for future in waiting]
        assert len({pair["prompt"][0]["content"] for pair in pairs}) == 8
        told = client.post("/api/compare/prompt", json={"text": "<script>alert(1)</script>"})
        assert told.status_code == 200
        typed = client.get("/api/compare/next").json()["pair"]
        assert typed["prompt"][0]["content"] == "<script>alert(1)</script>"


@pytest.mark.parametrize("names", [("one", "two"), ("one",)])
def test_served_models_answer_what_is_typed(tmp_path: Path, names: tuple[str, ...]) -> None:
    with site_with_models(tmp_path, dict.fromkeys(names, TEMPLATE) | {"plain": None}) as site:
        save_study(site.votes_folder, Study(max_tokens=12, temperature=1.5))
        with client_of(site) as client:
            assert client.get("/api/compare/next").status_code == 204
            assert client.post("/api/compare/prompt", json={"text": "the river"}).status_code == 200
            assert client.post("/api/compare/prompt", json={"text": "so long " * 500}).status_code == 200
            shown = client.get("/api/compare/next").json()["pair"]
            vote = {"pair": shown["id"], "winner": "left", "seconds": 1}
            assert client.post("/api/compare/vote", json=vote).status_code == 200
            # What leaves no room for an answer is put aside.
            assert client.get("/api/compare/next").status_code == 204
        found = read_votes(site.votes_folder / LOG)
        (pair,) = found.pairs.values()
        assert set(pair.models) == {site.models[name].dataset for name in names} and len(found.useless) == 1
        again = answer_of(site, names[0], pair.prompt, {**pair.sampling, "seed": pair.sampling["seeds"][0]})
        assert again.strip() == pair.a


KEY = "0123456789abcdef"
SERVER = """
import sys
from flows.web.app import create_app
from flows.web.listen import server, take_socket
from tests.flows.web.sites import empty_site
from pathlib import Path
site = empty_site(Path(sys.argv[1]), requests_per_second=10_000)
listener = take_socket("127.0.0.1", 0, frozenset(), site.settings.stall_seconds)
print(listener.getsockname()[1], flush=True)
server(create_app(site), site).run([listener])
"""


def test_no_vote_that_was_answered_is_lost_by_a_kill(tmp_path: Path) -> None:
    """Four annotators vote as fast as they can; the server is killed in the midst."""
    folder = tmp_path / "votes"
    prepare(folder, overlap=4)
    answered(folder, 10)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE)
    assert server.stdout is not None
    address = f"http://127.0.0.1:{int(server.stdout.readline())}"
    confirmed: dict[tuple[str, str], tuple[int, str]] = {}
    enough = threading.Event()

    def vote_on(name: str) -> None:
        """Vote on the same pair again and again, each time otherwise, until the server is gone."""
        pair = ask(address, "next", name)["pair"]["id"]
        for number in range(100_000):
            winner = ("left", "right", "tie", "both_bad")[number % 4]
            try:
                ask(address, "vote", name, {"pair": pair, "winner": winner, "seconds": number})
            except (OSError, HTTPException):
                return
            confirmed[name, pair] = number, winner
            if number >= 30:
                enough.set()

    threads = [threading.Thread(target=vote_on, args=(f"annotator {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    server.kill()
    server.wait()
    for thread in threads:
        thread.join()
    with comparing(folder, 10, overlap=4, repeats=0) as found:  # and the next one goes on from there
        assert found.progress("annotator 0")["votes"] == len(confirmed) == 4
    standing = {(vote.shown.annotator, vote.shown.id): vote for vote in read_votes(folder / LOG).standing.values()}
    for key, (number, winner) in confirmed.items():
        vote = standing[key]
        # The one after it may be on record although its answer never came.
        assert vote.seconds in (number, number + 1)
        if vote.seconds == number:
            assert winner == vote.winner or winner == ("left" if vote.winner == vote.shown.left else "right")


def ask(address: str, what: str, name: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"X-Annotator": name.replace(" ", "%20"), "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/api/compare/{what}", data, headers), timeout=20
    ) as reply:
        return json.load(reply)
