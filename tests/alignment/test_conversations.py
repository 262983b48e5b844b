"""What is taught, what is held out, and that packed conversations never see each other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.conversations import (
    Conversation,
    Message,
    Reading,
    check_special_tokens,
    exchanges,
    fitting,
    is_held_out,
    pack,
    read_conversations,
    render_pieces,
    render_prompt,
    render_reply,
    stop_ids,
)
from infra.errors import InputError
from tests.alignment.toys import LetterTokenizer, tiny_decoder

TOKENIZER = LetterTokenizer()
USER, ASSISTANT, END = (TOKENIZER.token_id(name) for name in ("<|user|>", "<|assistant|>", "<|end|>"))


def talk(*contents: str, id: str = "x") -> Conversation:
    return Conversation(id, tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)))


talks = st.lists(st.text("abc ", min_size=1, max_size=12), min_size=2, max_size=8).map(lambda texts: talk(*texts))


def test_only_the_assistant_and_its_end_are_taught() -> None:
    (piece,) = render_pieces(TOKENIZER, talk("hi", "yo", "ok", "bye"), 100)
    learnt = [token for token, taught in zip(piece.ids, piece.taught, strict=True) if taught]
    assert learnt == [*render_reply(TOKENIZER, "yo"), *render_reply(TOKENIZER, "bye")]
    assert piece.ids[0] == TOKENIZER.bos_id and learnt.count(END) == 2


@settings(deadline=None)
@given(talks, st.integers(8, 60))
def test_pieces_fit_begin_in_context_and_end_with_something_learnt(conversation, length) -> None:
    for piece in render_pieces(TOKENIZER, conversation, length):
        assert len(piece.ids) == len(piece.taught) <= length
        assert piece.ids[:2] == [TOKENIZER.bos_id, USER]
        assert piece.taught[-1] and piece.ids[-1] == END
        assert not piece.taught[0], "the first token of a piece would be predicted from the piece before it"


def test_a_prompt_and_its_reply_are_the_training_text() -> None:
    conversation = talk("hi there", "yo")
    (piece,) = render_pieces(TOKENIZER, conversation, 100)
    prompt = render_prompt(TOKENIZER, conversation.messages[:1])
    assert prompt + render_reply(TOKENIZER, "yo") == piece.ids


@settings(deadline=None)
@given(talks, st.integers(6, 60))
def test_a_shortened_prompt_is_the_end_of_the_conversation_from_a_user_turn_on(conversation, length) -> None:
    messages = conversation.messages[: len(conversation.messages) // 2 * 2 - 1]
    kept = fitting(TOKENIZER, messages, length)
    if kept is None:
        assert len(render_prompt(TOKENIZER, messages[-1:])) > length
        return
    prompt = render_prompt(TOKENIZER, kept)
    assert len(prompt) <= length and prompt[:2] == [TOKENIZER.bos_id, USER] and prompt[-1] == ASSISTANT
    assert kept == messages[len(messages) - len(kept) :]
    longer = messages[max(0, len(messages) - len(kept) - 2) :]
    assert longer == kept or len(render_prompt(TOKENIZER, longer)) > length


def test_a_system_turn_survives_shortening() -> None:
    messages = (
        Message("system", "be kind"),
        Message("user", "a" * 40),
        Message("assistant", "c"),
        Message("user", "b"),
    )
    assert fitting(TOKENIZER, messages, 20) == (messages[0], messages[3])


@settings(deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=30))
def test_packing_keeps_every_token_once(lengths) -> None:
    pieces = [next(render_pieces(TOKENIZER, talk("a", "b" * length), 100)) for length in lengths]
    rows = pack(pieces, 32, TOKENIZER.pad_id)
    found = []
    for row in range(len(rows)):
        for segment in range(1, rows.segments[row].max() + 1):
            where = rows.segments[row] == segment
            assert rows.positions[row][where].tolist() == list(range(where.sum()))
            found.append((rows.input_ids[row][where].tolist(), rows.taught[row][where].tolist()))
    assert sorted(found) == sorted((piece.ids, piece.taught) for piece in pieces)
    assert not rows.taught[rows.segments == 0].any()
    assert (rows.input_ids[rows.segments == 0] == TOKENIZER.pad_id).all()


def test_a_packed_conversation_reads_as_if_it_were_alone() -> None:
    pieces = [next(render_pieces(TOKENIZER, talk(*texts), 100)) for texts in (("ab", "cd"), ("xyz", "w"), ("k", "j"))]
    rows = pack(pieces, 40, TOKENIZER.pad_id)
    assert len(rows) == 1
    model = tiny_decoder()
    packed = model(torch.from_numpy(rows.input_ids), torch.from_numpy(rows.positions), torch.from_numpy(rows.segments))
    for piece in pieces:
        alone = model(torch.tensor([piece.ids]))[0]
        row, size = rows.input_ids[0], len(piece.ids)
        start = next(s for s in range(len(row)) if row[s : s + size].tolist() == piece.ids)
        torch.testing.assert_close(packed[0, start : start + size], alone)


def test_the_held_out_part_depends_on_the_id_alone() -> None:
    held = {number for number in range(2000) if is_held_out(talk("a", "b", id=str(number)), 0.1)}
    assert 150 < len(held) < 250
    assert held == {n for n in reversed(range(2000)) if is_held_out(talk("other", "words", id=str(n)), 0.1)}
    assert held < {n for n in range(2000) if is_held_out(talk("a", "b", id=str(n)), 0.2)}


def test_a_bad_line_costs_itself(tmp_path: Path) -> None:
    good = {"id": "1", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
    lines = [
        json.dumps(good),
        "{torn",
        json.dumps({"id": "2"}),
        json.dumps({"id": "3", "messages": [{"role": "robot", "content": "x"}]}),
        json.dumps({"id": "4", "messages": [{"role": "user", "content": "alone"}]}),
        "",
    ]
    path = tmp_path / "conversations.jsonl"
    path.write_text("\n".join(lines))
    reading = Reading()
    assert [c.id for c in read_conversations(path, reading)] == ["1"]
    assert reading.read == 1
    assert reading.refused == {"not_json": 1, "not_a_conversation": 1, "bad_message": 1, "no_reply": 1}
    with pytest.raises(InputError, match="no file of conversations"):
        list(read_conversations(tmp_path / "absent.jsonl"))


def test_exchanges_are_the_replies_with_what_came_before() -> None:
    found = list(exchanges([talk("a", "b", "c", "d", "e")]))
    assert [(len(exchange.prompt), exchange.reply) for exchange in found] == [(1, "b"), (3, "d")]


def test_padding_that_ends_turns_is_refused() -> None:
    check_special_tokens(TOKENIZER)
    assert TOKENIZER.pad_id not in stop_ids(TOKENIZER)

    class PadsWithEnd(LetterTokenizer):
        pad_id = LetterTokenizer().token_id("<|end|>")

    with pytest.raises(InputError, match="pads with the token that ends a turn"):
        check_special_tokens(PadsWithEnd())


def test_rows_can_be_taken_in_any_order() -> None:
    rows = pack([next(render_pieces(TOKENIZER, talk("a", "b" * n), 100)) for n in (20, 21, 22)], 32, TOKENIZER.pad_id)
    assert rows.select(np.array([2, 0])).input_ids.tolist() == rows.input_ids[[2, 0]].tolist()
    assert 0 < rows.filled < 1
