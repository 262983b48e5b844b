"""The OpenAI API as strangers use it: with the ``openai`` client, and with what they send by hand."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from starlette.testclient import TestClient

from flows.web.site import Site
from tests.flows.web.sites import client_of, running, site_with_models, two_models
from training.generate import Sampling
from training.replies import Ask
from training.serving import answer

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_with_models(tmp_path_factory.mktemp("site"), two_models(), slots=4, queue=8, stall_seconds=1) as made:
        yield made


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    with running(site) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def by_hand(site: Site) -> TestClient:
    return client_of(site)


def settle(site: Site) -> None:
    deadline = time.monotonic() + 20
    while any(any(model.engine.load.values()) for model in site.models.values()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [model.engine.load for model in site.models.values()] == [{"writing": 0, "open": 0}] * 2


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chatty", "plain"]
    assert client.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError, match="chatty, plain"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_a_chat_is_the_same_whole_and_in_chunks(client: openai.OpenAI, site: Site) -> None:
    how: dict[str, Any] = {"model": "chatty", "messages": HELLO, "seed": 3, "max_tokens": 30, "n": 2}
    whole = client.chat.completions.create(**how)
    texts = [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    pieces = [choice for chunk in chunks for choice in chunk.choices]
    for index, text in enumerate(texts):
        own = [piece for piece in pieces if piece.index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(piece.delta.content or "" for piece in own) == text
        assert [piece.finish_reason for piece in own if piece.finish_reason] == [whole.choices[index].finish_reason]
    no_usage = list(client.chat.completions.create(**how, stream=True))
    assert all(chunk.choices for chunk in no_usage)
    model = site.models["chatty"]
    ids = model.model.chat_format(model.template or "").ids(HELLO)
    reply = answer(model.engine, Ask(tuple(ids), Sampling(temperature=1, seed=3, max_new_tokens=30)))[0]
    assert reply.text.lstrip() == texts[0]


def test_probabilities_with_and_without_alternatives(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {"model": "chatty", "messages": HELLO, "seed": 1, "max_tokens": 12, "logprobs": True}
    plain = client.chat.completions.create(**how).choices[0]
    assert plain.logprobs is not None
    assert plain.logprobs.content is not None
    assert all(token.top_logprobs == [] for token in plain.logprobs.content)
    rich = client.chat.completions.create(**how, top_logprobs=5).choices[0]
    assert rich.logprobs is not None
    assert rich.logprobs.content is not None
    for token, other in zip(rich.logprobs.content, plain.logprobs.content, strict=True):
        assert token.logprob == pytest.approx(other.logprob, abs=1e-4)
        values = [each.logprob for each in token.top_logprobs]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert token.logprob <= values[0] + 1e-4
    spelt = b"".join(bytes(token.bytes or []) for token in rich.logprobs.content).decode("utf-8", "replace")
    assert spelt.lstrip() == rich.message.content
    streamed = client.chat.completions.create(**how, top_logprobs=5, stream=True)
    tokens = [
        token.token
        for chunk in streamed
        for choice in chunk.choices
        for token in (choice.logprobs.content if choice.logprobs else None) or []
    ]
    assert tokens == [token.token for token in rich.logprobs.content]


def test_completions_of_several_prompts_echo_and_are_judged(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model="plain", prompt=["Once upon", "A mill"], echo=True, logprobs=2, max_tokens=4, seed=0, n=2
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for choice, prompt in zip(found.choices, ["Once upon"] * 2 + ["A mill"] * 2, strict=True):
        assert choice.text.startswith(prompt)
        told = choice.logprobs
        assert told is not None
        assert told.tokens is not None
        assert told.token_logprobs is not None
        assert told.token_logprobs[0] is None
        assert told.top_logprobs is not None
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset or [])
        assert all(value <= 0 for value in told.token_logprobs[1:])
    read = client.completions.create(
        model="plain", prompt=[2, 40, 41], max_tokens=0, echo=True, logprobs=0, extra_body={"prompt_logprobs": 1}
    ).choices[0]
    assert read.finish_reason == "length"
    assert read.logprobs is not None
    assert read.logprobs.tokens is not None
    assert len(read.logprobs.tokens) == 3
    judged = read.model_extra["prompt_logprobs"]
    assert judged[0] is None
    assert [str(token) in entry for token, entry in zip([40, 41], judged[1:], strict=True)] == [True, True]
    assert client.completions.create(model="plain", prompt="Once", max_tokens=0).choices[0].text == ""


def test_an_echo_comes_first_in_a_stream(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "plain",
        "prompt": ["Once upon", "A mill"],
        "max_tokens": 5,
        "seed": 4,
        "echo": True,
    }
    whole = client.completions.create(**how, logprobs=1)
    chunks = list(client.completions.create(**how, logprobs=1, stream=True))
    for choice in whole.choices:
        own = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(each.text for each in own) == choice.text
        assert choice.logprobs is not None
        tokens = [token for each in own if each.logprobs for token in each.logprobs.tokens or []]
        assert tokens == choice.logprobs.tokens


def test_a_message_is_continued_where_it_ends(client: openai.OpenAI, site: Site) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Once upon a"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    found = client.chat.completions.create(
        model="chatty", messages=messages, max_tokens=8, temperature=0, extra_body=extra
    )
    model = site.models["chatty"]
    start = model.model.chat_format(model.template or "").ids(HELLO)
    ids = [*start, *model.model.encode("Once upon a")]
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(ids)
    reply = answer(model.engine, Ask(tuple(ids), Sampling(temperature=0, max_new_tokens=8)))[0]
    assert found.choices[0].message.content == reply.text


@pytest.mark.parametrize(
    "changes",
    [
        {"stop": ""}, {"stop": []}, {"stop": None}, {"stop": "\n"}, {"stop": ["", "zz"]},
        {"n": None}, {"max_tokens": None, "max_completion_tokens": 3}, {"seed": -5}, {"seed": 2**80},
        {"logit_bias": {"40": 100}}, {"logit_bias": {}}, {"temperature": 0}, {"top_p": 0}, {"top_k": -1}, {"top_p": 1},
        {"stream_options": None}, {"user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]},
        {"messages": [{"role": "developer", "content": "Be brief."}, *HELLO]},
        {"messages": [*HELLO, {"role": "assistant", "content": None}, *HELLO]},
        {"tools": []}, {"tools": None, "tool_choice": "none"}, {"response_format": {"type": "text"}},
        {"logprobs": False}, {"guided_json": None, "min_tokens": 0},
        {"model": "chatty", "max_tokens": 100_000_000, "stop": ["e", "a"]},
    ],
)  # fmt: skip
def test_what_strangers_send_is_understood(by_hand: TestClient, changes: dict[str, Any]) -> None:
    asked = {"model": "chatty", "messages": HELLO, "max_tokens": 3} | changes
    for stream in (False, True):
        found = by_hand.post("/v1/chat/completions", json=asked | {"stream": stream})
        assert found.status_code == 200, found.text
    assert found.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("changes", "says", "param"),
    [
        ({"tools": [{"type": "function"}]}, "call no functions", "tools"),
        ({"messages": []}, "messages", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "no role", "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only", "messages.0"),
        ({"messages": [{"role": "user"}]}, "no text", "messages.0"),
        ({"messages": [{"role": "user", "content": "word " * 300}]}, "context is 256", "prompt"),
        ({"temperature": -1}, "temperature", "temperature"),
        ({"temperature": "hot"}, "temperature", "temperature"),
        ({"n": 0}, "n:", "n"),
        ({"n": 5}, "5 replies", None),
        ({"max_tokens": 0}, "max_tokens", "max_tokens"),
        ({"top_logprobs": 3}, "needs `logprobs`", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 50}, "top_logprobs", "top_logprobs"),
        ({"stop": 5}, "stop: ", "stop"),
        ({"stop": ["x"] * 65}, "stop: at most 64", "stop"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty", "repetition_penalty"),
        ({"guided_json": {"type": "object"}}, "not done here", "guided_json"),
        ({"chat_template": "{{ messages }}"}, "not done here", "chat_template"),
        ({"min_tokens": 5}, "not done here", "min_tokens"),
        ({"logit_bias": {"hello": 1}}, "not a token's id", "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "not a token's id", "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "free text", "response_format"),
        ({"continue_final_message": True}, "only an assistant's message", "continue_final_message"),
        ({"model": "plain"}, "never taught to chat", "model"),
        ({"stream": True, "prompt_logprobs": 1}, "comes whole", "prompt_logprobs"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    by_hand: TestClient, changes: dict[str, Any], says: str, param: str | None
) -> None:
    found = by_hand.post("/v1/chat/completions", json={"model": "chatty", "messages": HELLO, "max_tokens": 3} | changes)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert says in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b'{"prompt": 3}', b'{"prompt": []}', b'{"prompt": [[]]}', b'{"prompt": [-1]}',
     b'{"prompt": [999999]}', b'{"prompt": "x", "temperature": NaN}', b'{"prompt": "x", "max_tokens": -1}',
     b'{"prompt": "x", "logprobs": 21}', b'{"prompt": "x", "best_of": 4}', b'{"prompt": "x", "suffix": "y"}',
     b'{"prompt": "\xff"}', b"[" * 100_000, b'{"prompt": ' + b"[" * 100_000, b'{"prompt": "x", "max_tokens": 1e999}'],
)  # fmt: skip
def test_hostile_bodies_are_refused(by_hand: TestClient, body: bytes) -> None:
    if body.startswith(b'{"'):
        body = b'{"model": "plain", ' + body[1:]
    found = by_hand.post("/v1/completions", content=body)
    assert found.status_code == 400, found.text
    assert set(found.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_long_is_told_to_a_client_that_is_still_sending(address: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST", "/v1/chat/completions", b"x" * (48 << 20))
    answer = connection.getresponse()
    assert (answer.status, b"longer than 4,194,304 bytes" in answer.read()) == (413, True)


def test_what_is_not_here_is_told_with_what_is(client: openai.OpenAI, by_hand: TestClient) -> None:
    for ask in (
        lambda: client.embeddings.create(model="chatty", input="x"),
        lambda: client.responses.create(model="chatty", input="x"),
    ):
        with pytest.raises(openai.NotFoundError, match="There are /v1/models, /v1/chat/completions"):
            ask()
    wrong = by_hand.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (
        405,
        "/v1/chat/completions is not asked by GET. Use POST.",
    )


def test_a_temperature_next_to_nothing_is_none(by_hand: TestClient) -> None:
    asked = {"model": "plain", "prompt": "Hello", "max_tokens": 8}
    cold, colder = (by_hand.post("/v1/completions", json=asked | {"temperature": t}).json() for t in (0, 1e-320))
    assert cold["choices"] == colder["choices"]


def test_a_full_queue_says_when_to_come_again(by_hand: TestClient, site: Site) -> None:
    many = by_hand.post("/v1/completions", json={"model": "plain", "prompt": ["x"] * 13, "max_tokens": 1})
    assert many.status_code == 400
    engine = site.models["plain"].engine
    ask = Ask((2, 40), Sampling(max_new_tokens=200), ignore_ends=True)
    tickets = [engine.submit(ask, lambda piece: None) for _ in range(12)]
    full = by_hand.post("/v1/completions", json={"model": "plain", "prompt": "x", "max_tokens": 1})
    for ticket in tickets:
        ticket.cancel()
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert full.json()["error"]["code"] == "queue_full"
    settle(site)


def test_a_client_that_goes_frees_its_rows(address: str, site: Site) -> None:
    host, port = address.removeprefix("http://").split(":")
    for stream in (True, False):
        asked = {"model": "plain", "prompt": "x", "max_tokens": 240, "ignore_eos": True, "n": 4, "stream": stream}
        body = json.dumps(asked).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + body)
            if stream:
                connection.recv(1)
            else:
                time.sleep(0.1)
        settle(site)


def test_a_server_that_closes_ends_its_streams(tmp_path: Path) -> None:
    asked = {"prompt": "x", "max_tokens": 240, "ignore_eos": True, "stream": True, "n": 4}
    with site_with_models(tmp_path, {"plain": None}, slots=4) as site:
        with running(site) as address, httpx.stream("POST", f"{address}/v1/completions", json=asked) as answer:
            lines = answer.iter_lines()
            assert "text_completion" in next(lines)
            site.models["plain"].engine.close()
            rest = [line for line in lines if line]
        assert any("the server is closing" in line for line in rest)
        assert rest[-1] == "data: [DONE]"


def test_a_client_that_stops_reading_is_cut_off(address: str, site: Site) -> None:
    """Each token's alternatives make more bytes than the kernel keeps for a reader that never reads."""
    host, port = address.removeprefix("http://").split(":")
    asked = {
        "model": "plain",
        "prompt": ["x"] * 3,
        "max_tokens": 250,
        "ignore_eos": True,
        "stream": True,
        "logprobs": 20,
    }
    body = json.dumps(asked | {"n": 4}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect((host, int(port)))
    connection.sendall(head + body)
    mine = connection.getsockname()[1]

    def server_side() -> list[Any]:
        return [
            each
            for each in psutil.Process().net_connections("tcp")
            if each.laddr.port == int(port) and each.raddr and each.raddr.port == mine
        ]

    deadline = time.monotonic() + 2
    while not server_side() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server_side()
    deadline = time.monotonic() + 20
    while server_side() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not server_side()
    connection.close()
    settle(site)
