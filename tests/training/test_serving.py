"""A running batch: what a request gets does not depend on who else is there, and nothing is left behind."""

import queue
import time
from collections.abc import Iterator

import pytest
import torch

from infra.errors import HeadwaterError, InputError
from tests.training.folders import tiny_model, write_tokenizer
from training import replies, serving
from training.generate import Sampling, generate
from training.hub_format import save_model
from training.replies import Ask, Piece, PromptRead
from training.scoring import score_continuations
from training.serving import Busy, Engine, answer
from training.text_model import TextModel, load_text_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    root = tmp_path_factory.mktemp("serving")
    save_model(tiny_model(init_std=0.1, max_position=256), root / "model", write_tokenizer(root / "tokenizer"))
    return load_text_model(root / "model")


@pytest.fixture
def engine(model: TextModel) -> Iterator[Engine]:
    made = Engine(model, slots=4, queue=16)
    yield made
    made.close()


def asks(model: TextModel) -> list[Ask]:
    how = [
        Sampling(temperature=0, max_new_tokens=40),
        Sampling(seed=1, max_new_tokens=12),
        Sampling(seed=-7, max_new_tokens=30, top_p=0.8, repetition_penalty=1.3),
        Sampling(seed=3, max_new_tokens=25, top_k=5, temperature=1.5),
        Sampling(seed=4, max_new_tokens=33, min_p=0.05, presence_penalty=1.0, frequency_penalty=0.5),
        Sampling(seed=5, max_new_tokens=8, logit_bias=((40, 100.0),)),
    ]
    texts = ["Once", "Twice upon a time", "", "naïve — 東京", "x" * 90, "Once"]
    return [Ask(tuple(model.prompt(text)), each, top=2) for text, each in zip(texts, how, strict=True)]


def settle(engine: Engine) -> None:
    deadline = time.monotonic() + 20
    while any(engine.load.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.load == {"writing": 0, "open": 0}
    assert engine._cache.lengths == []


def test_requests_together_get_what_each_gets_alone(model: TextModel, engine: Engine) -> None:
    alone = [answer(engine, ask)[0] for ask in asks(model)]
    pieces: queue.SimpleQueue = queue.SimpleQueue()
    for number, ask in enumerate(asks(model)):
        engine.submit(ask, lambda piece, number=number: pieces.put((number, piece)))
    together = [serving.Reply() for _ in alone]
    while not all(reply.finish for reply in together):
        number, piece = pieces.get(timeout=20)
        together[number].add(piece)
    for mine, other in zip(alone, together, strict=True):
        assert (mine.text, mine.tokens, mine.finish) == (other.text, other.tokens, other.finish)
        assert [told.token for told in mine.logprobs] == [told.token for told in other.logprobs]
        assert [told.log_prob for told in mine.logprobs] == pytest.approx(
            [told.log_prob for told in other.logprobs], abs=1e-4
        )
    settle(engine)


def test_it_writes_what_generate_writes(model: TextModel, engine: Engine) -> None:
    for ask in asks(model)[:4]:
        how = ask.sampling.model_dump(exclude={"stop", "presence_penalty", "frequency_penalty", "logit_bias"})
        made = generate(model.decoder, [ask.prompt], stop_ids=model.special.stops, **how)
        reply = answer(engine, ask)[0]
        assert [told.token for told in reply.logprobs] == made.tokens[0]
        assert [told.log_prob for told in reply.logprobs] == pytest.approx(made.log_probs[0], abs=1e-4)
        assert reply.finish == ("stop" if made.finished[0] else "length")


def test_several_replies_to_one_prompt_differ_and_come_again(model: TextModel, engine: Engine) -> None:
    ask = Ask(tuple(model.prompt("Once")), Sampling(seed=9, max_new_tokens=20), replies=3)
    first = [reply.text for reply in answer(engine, ask)]
    assert len(set(first)) == 3
    assert [reply.text for reply in answer(engine, ask)] == first
    assert answer(engine, Ask(ask.prompt, ask.sampling))[0].text == first[0]
    with pytest.raises(InputError, match="at a time"):
        engine.submit(Ask(ask.prompt, ask.sampling, replies=5), print)


def test_a_long_prompt_is_read_in_pieces_and_judged(
    model: TextModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tuple(model.prompt("the mill by the river turned all day and " * 3)[:100])
    whole = Ask(prompt, Sampling(temperature=0, max_new_tokens=20), top=0)
    expected = answer(engine, whole)[0]
    for module in (replies, serving):
        monkeypatch.setattr(module, "READ_TOKENS", 23)
    assert answer(engine, whole)[0].text == expected.text
    pieces: queue.SimpleQueue = queue.SimpleQueue()
    engine.submit(Ask(prompt, Sampling(), prompt_top=3, read_only=True), pieces.put)
    read, end = pieces.get(timeout=20), pieces.get(timeout=20)
    assert isinstance(read, PromptRead)
    assert (end.finish, end.tokens) == ("length", 0)
    right = score_continuations(model.decoder, [(prompt[:1], prompt[1:])])[0]
    assert [-told.log_prob for told in read.logprobs] == pytest.approx(right.tokens.tolist(), abs=1e-3)
    assert all((told.rank == 1) == (told.top[0][0] == told.token) for told in read.logprobs)
    assert all(len(told.top) == 3 for told in read.logprobs)
    settle(engine)


def test_a_stop_text_ends_a_reply_with_the_tokens_before_it(model: TextModel, engine: Engine) -> None:
    ask = Ask(tuple(model.prompt("Once")), Sampling(seed=2, max_new_tokens=40), top=0)
    free = answer(engine, ask)[0]
    stop = free.text[7:10]
    how = ask.sampling.model_copy(update={"stop": (stop, "never there")})
    ended = answer(engine, Ask(ask.prompt, how, top=0))[0]
    assert ended.text == free.text[: free.text.index(stop)]
    assert ended.finish == "stop"
    assert ended.tokens < free.tokens
    assert [told.token for told in ended.logprobs] == [
        told.token for told in free.logprobs if told.at < len(ended.text)
    ]


def test_biases_and_penalties_steer(model: TextModel, engine: Engine) -> None:
    prompt = tuple(model.prompt("Once"))

    def tokens(**how: object) -> list[int]:
        made = answer(engine, Ask(prompt, Sampling(temperature=0, max_new_tokens=30, **how), top=0, ignore_ends=True))
        return [told.token for told in made[0].logprobs]

    plain = tokens()
    assert set(tokens(logit_bias=((50, 100.0),))) == {50}
    assert plain[0] not in tokens(logit_bias=((plain[0], -100.0),))
    assert len(set(tokens(presence_penalty=100.0))) == 30
    assert len(set(tokens(frequency_penalty=100.0))) == 30
    assert len(set(plain)) < 30


def test_cancelled_requests_leave_nothing(model: TextModel, engine: Engine) -> None:
    pieces: queue.SimpleQueue = queue.SimpleQueue()
    prompt = tuple(model.prompt("Once"))
    tickets = [
        engine.submit(Ask(prompt, Sampling(max_new_tokens=200, seed=n), ignore_ends=True), pieces.put)
        for n in range(12)
    ]
    for ticket in tickets[::2]:
        ticket.cancel()
    ends = []
    while len(ends) < 12:
        piece = pieces.get(timeout=30)
        ends += [piece.finish] if piece.finish else []
    assert sorted(ends) == ["cancelled"] * 6 + ["length"] * 6
    settle(engine)


def test_too_many_are_refused_and_the_rest_are_answered(model: TextModel) -> None:
    engine = Engine(model, slots=1, queue=2)
    prompt, pieces = tuple(model.prompt("Once")), queue.SimpleQueue()  # type: ignore[var-annotated]
    ask = Ask(prompt, Sampling(max_new_tokens=60), ignore_ends=True)
    for _ in range(3):
        engine.submit(ask, pieces.put)
    with pytest.raises(Busy) as refused:
        engine.submit(ask, pieces.put)
    assert refused.value.seconds >= 1
    ends = 0
    while ends < 3:
        ends += pieces.get(timeout=30).finish == "length"
    settle(engine)
    engine.close()
    with pytest.raises(HeadwaterError, match="closing"):
        engine.submit(ask, pieces.put)


def test_a_step_that_fails_costs_those_replies_only(
    model: TextModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Ask(tuple(model.prompt("Once")), Sampling(temperature=0, max_new_tokens=5))
    right = answer(engine, ask)[0].text

    def broken(*arguments: object) -> None:
        raise RuntimeError("no memory")

    for name in ("choose", "read_prompts"):
        with monkeypatch.context() as patch:
            patch.setattr(serving, name, broken)
            with pytest.raises(HeadwaterError, match="no memory"):
                answer(engine, ask)
        settle(engine)
    assert answer(engine, ask)[0].text == right


def test_damaged_weights_are_told(model: TextModel) -> None:
    damaged = tiny_model(init_std=0.1)
    with torch.no_grad():
        damaged.norm.weight.fill_(float("nan"))
    engine = Engine(TextModel(damaged.eval(), model.tokenizer, model.special), slots=2)
    with pytest.raises(HeadwaterError, match="no finite probabilities"):
        answer(engine, Ask(tuple(model.prompt("Once")), Sampling()))
    settle(engine)
    engine.close()


def test_closing_ends_what_is_being_written(model: TextModel) -> None:
    engine = Engine(model, slots=1, queue=2)
    pieces: list[Piece | PromptRead] = []
    for _ in range(2):
        ask = Ask(tuple(model.prompt("Once")), Sampling(max_new_tokens=240), ignore_ends=True)
        engine.submit(ask, pieces.append)
    engine.close()
    assert [piece.finish for piece in pieces if isinstance(piece, Piece) and piece.finish] == ["error", "error"]
