"""What is taught, what is held out, and that packed conversations never see each other."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.conversations import (
    Untaught,
    check_special_tokens,
    cut,
    exchanges,
    fitting,
    is_held_out,
    read_conversations,
    render_messages,
    render_prompt,
    render_reply,
    stop_ids,
)
from alignment.forms import conversation_of, messages_from_json, messages_to_json, written
from alignment.packing import pack
from alignment.records import Reading, Refusal
from alignment.turns import Conversation, Message, Rendered
from infra.errors import InputError
from tests.alignment.toys import LetterTokenizer, tiny_decoder

TOKENIZER = LetterTokenizer()
USER, ASSISTANT, END = (TOKENIZER.token_id(name) for name in ("<|user|>", "<|assistant|>", "<|end|>"))


def talk(*contents: str, id: str = "x") -> Conversation:
    return Conversation(id, tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)))


talks = st.lists(st.text("abc ", min_size=1, max_size=12), min_size=2, max_size=8).map(lambda texts: talk(*texts))


def test_only_the_assistant_and_its_end_are_taught() -> None:
    (piece,) = cut(TOKENIZER, talk("hi", "yo", "ok", "bye"), 100).pieces
    learnt = [token for token, taught in zip(piece.ids, piece.loss_mask, strict=True) if taught]
    assert learnt == [*render_reply(TOKENIZER, "yo"), *render_reply(TOKENIZER, "bye")]
    assert piece.ids[0] == TOKENIZER.bos_id and learnt.count(END) == 2


@settings(deadline=None)
@given(talks, st.integers(8, 60))
def test_pieces_fit_begin_in_context_and_end_with_something_learnt(conversation, length) -> None:
    for piece in cut(TOKENIZER, conversation, length).pieces:
        assert len(piece.ids) == len(piece.loss_mask) <= length
        assert piece.ids[:2] == [TOKENIZER.bos_id, USER]
        assert piece.loss_mask[-1] and piece.ids[-1] == END
        assert not piece.loss_mask[0], "the first token of a piece would be predicted from the piece before it"


def roles(*turns: str) -> Conversation:
    """Turns like "u12": who speaks, and how many letters."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    return Conversation("x", tuple(Message(names[turn[0]], "b" * int(turn[1:])) for turn in turns))


def taught_lengths(piece: Rendered) -> list[int]:
    """Letters of each reply that a piece teaches."""
    text = "".join(
        "." if not taught else "|" if id == END else "x" for id, taught in zip(piece.ids, piece.loss_mask, strict=True)
    )
    return [len(run) for run in text.replace(".", "").split("|")[:-1]]


def test_a_reply_that_does_not_fit_goes_on_with_its_question_and_system_turn() -> None:
    # A turn of n letters takes n + 2 tokens; a row holds the first exchange and the second question.
    conversation = roles("s3", "u4", "a10", "u5", "a11", "u6", "a7")
    found = cut(TOKENIZER, conversation, 38)
    assert [taught_lengths(piece) for piece in found.pieces] == [[10], [11], [7]] and found.untaught == {}
    turns = [turn.ids for turn in render_messages(TOKENIZER, conversation.messages)]
    assert found.pieces[1].ids == [TOKENIZER.bos_id, *turns[0], *turns[3], *turns[4]]


def test_what_no_row_holds_is_said_and_nothing_else_is_lost() -> None:
    found = cut(TOKENIZER, roles("u4", "a40", "u4", "a5"), 30)
    assert [taught_lengths(piece) for piece in found.pieces] == [[5]]
    assert found.untaught == {1: Untaught("too_long", 1 + 6 + 42)}
    found = cut(TOKENIZER, roles("a3", "u2", "a0", "u2", "a4"), 30)
    assert [taught_lengths(piece) for piece in found.pieces] == [[4]]
    assert found.untaught == {0: Untaught("answers_nothing"), 2: Untaught("empty_reply")}
    # Of several questions in a row the last is enough; a second reply goes on behind the first, which is not taught twice.
    assert [taught_lengths(p) for p in cut(TOKENIZER, roles("u20", "u3", "a9"), 20).pieces] == [[9]]
    assert [taught_lengths(p) for p in cut(TOKENIZER, roles("u5", "a5", "u3", "a9", "a8"), 33).pieces] == [[5, 9], [8]]


turns = st.lists(
    st.tuples(st.sampled_from("sua"), st.integers(0, 9)).map(lambda t: f"{t[0]}{t[1]}"), min_size=1, max_size=9
)


@settings(deadline=None)
@given(turns, st.integers(12, 60))
def test_every_reply_that_fits_a_row_with_its_question_is_taught_once(letters, length) -> None:
    conversation = roles(*letters)
    found = cut(TOKENIZER, conversation, length)
    messages = conversation.messages
    size = {index: len(message.content) + 2 for index, message in enumerate(messages)}
    system = size[0] if messages[0].role == "system" else 0
    expected = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = messages[index - 1].role if index else ""
        fits = 1 + (system if index > 1 else 0) + size.get(index - 1, 0) + size[index] <= length
        if before == "user" and fits and message.content:
            expected.append(len(message.content))
            assert index not in found.untaught
        elif index not in found.untaught:
            expected.append(len(message.content))
    assert [n for piece in found.pieces for n in taught_lengths(piece)] == expected
    assert all(len(piece.ids) <= length and piece.loss_mask[-1] for piece in found.pieces)


def test_a_prompt_and_its_reply_are_the_training_text() -> None:
    conversation = talk("hi there", "yo")
    (piece,) = cut(TOKENIZER, conversation, 100).pieces
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
    pieces = [cut(TOKENIZER, talk("a", "b" * length), 100).pieces[0] for length in lengths]
    rows = pack(pieces, 32, TOKENIZER.pad_id)
    found = []
    for row in range(len(rows)):
        for segment in range(1, rows.segments[row].max() + 1):
            where = rows.segments[row] == segment
            assert rows.positions[row][where].tolist() == list(range(where.sum()))
            found.append((rows.input_ids[row][where].tolist(), rows.loss_mask[row][where].tolist()))
    assert sorted(found) == sorted((piece.ids, piece.loss_mask) for piece in pieces)
    assert not rows.loss_mask[rows.segments == 0].any()
    assert (rows.input_ids[rows.segments == 0] == TOKENIZER.pad_id).all()


def test_a_packed_conversation_reads_as_if_it_were_alone() -> None:
    pieces = [cut(TOKENIZER, talk(*texts), 100).pieces[0] for texts in (("ab", "cd"), ("xyz", "w"), ("k", "j"))]
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


def test_a_bad_line_costs_itself_and_is_told_with_its_place(tmp_path: Path) -> None:
    good = {"id": "1", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
    lines = [
        b"\xef\xbb\xbf" + json.dumps(good).encode(),
        b"{torn",
        b'{"id": "2"}',
        b'{"id": "3", "messages": [{"role": "robot", "content": "x"}]}',
        b'{"id": "4", "messages": [{"role": "user", "content": "alone"}]}',
        b"",
        b'{"id": "5", "messages": "\xff"}',
        b"[1]",
    ]
    path, told = tmp_path / "conversations.jsonl", list[Refusal]()
    path.write_bytes(b"\r\n".join(lines))
    reading = Reading(tell=told.append)
    assert [c.id for c in read_conversations(path, reading)] == ["1"]
    assert reading.read == 1
    reasons = ["not_json", "not_a_conversation", "bad_message", "no_reply", "not_utf8", "not_an_object"]
    assert [refusal.reason for refusal in told] == reasons and reading.refused == dict.fromkeys(reasons, 1)
    whole = path.read_bytes()
    assert all(whole[r.line.offset :].startswith(r.line.data) for r in told) and told[-1].line.number == 8
    assert "robot" in told[2].detail
    with pytest.raises(InputError, match="no such file"):
        list(read_conversations(tmp_path / "absent.jsonl"))
    assert reading.example == f" (line 2 of {path.name}, from byte {told[0].line.offset} on: {told[0].detail})"


def test_a_damaged_member_costs_its_lines_and_no_others(tmp_path: Path) -> None:
    talks = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": str(n)}]} for n in range(9)
    ]
    members = [gzip.compress("".join(json.dumps(t) + "\n" for t in talks[n : n + 3]).encode()) for n in (0, 3, 6)]
    members[1] = members[1][:-12] + b"\x00\x00\x00\x00" + members[1][-8:]
    path, reading = tmp_path / "talks.jsonl", Reading()
    path.write_bytes(b"".join(members))
    read = [conversation.messages[1].content for conversation in read_conversations(path, reading)]
    assert read == ["0", "1", "2", "6", "7", "8"] and reading.refused == {"damaged_file": 1}


def write_talks(path: Path, *talks: object) -> list[Conversation]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as stream:  # type: ignore[operator]
        stream.writelines(json.dumps(talk) + "\n" for talk in talks)
    return list(read_conversations(path))


def test_a_reply_that_is_marked_as_no_example_is_context_only(tmp_path: Path) -> None:
    said = [("user", "hi"), ("assistant", "bad"), ("user", "again"), ("assistant", "good")]
    messages = [{"role": role, "content": content} for role, content in said]
    messages[1]["weight"] = 0
    path = tmp_path / "marked.jsonl"
    every = [{"messages": messages}, {"messages": messages[:2]}, {"messages": messages[2:]}]
    path.write_text("".join(json.dumps(each) + "\n" for each in every))
    reading = Reading()
    marked, plain = read_conversations(path, reading)
    assert reading.refused == {"labelled_bad": 1} and len(plain.messages) == 2
    found = cut(TOKENIZER, marked, 99)
    assert [taught_lengths(piece) for piece in found.pieces] == [[4]] and found.untaught == {1: Untaught("weight_zero")}
    assert [exchange.reply for exchange in exchanges([marked])] == ["good"]
    assert messages_from_json(messages_to_json(marked.messages)) == marked.messages
    again = conversation_of({"text": written(marked.messages)})
    assert again.messages == marked.messages


def test_a_conversation_without_an_id_is_named_by_its_content(tmp_path: Path) -> None:
    def said(text: str, **more: object) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}], **more}

    found = write_talks(tmp_path / "a.jsonl", said("yo"), said("no", id=None), said("so", id=" "), said("ho", id=7))
    assert len({c.id for c in found}) == 4 and found[3].id == "7" and "None" not in {c.id for c in found}
    again = write_talks(tmp_path / "b.jsonl.gz", said("no"), said("yo", other=1))
    assert [c.id for c in again] == [found[1].id, found[0].id]


def test_hostile_text_costs_no_more_than_itself(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "cut "}, {"type": "text", "text": "\ud83d"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "<|end|>\x00\udc00ok"}]
    (found,) = write_talks(tmp_path / "a.jsonl", {"id": "\ud800", "messages": messages})
    assert [m.content for m in found.messages] == ["cut \ufffd", "<|end|>\x00\ufffdok"]
    assert 0 <= found.held_out_rank < 1
    (piece,) = cut(TOKENIZER, found, 100).pieces
    assert piece.ids.count(END) == 2, "what somebody wrote ends no turn"


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
    rows = pack([cut(TOKENIZER, talk("a", "b" * n), 100).pieces[0] for n in (20, 21, 22)], 32, TOKENIZER.pad_id)
    assert rows.select(np.array([2, 0])).input_ids.tolist() == rows.input_ids[[2, 0]].tolist()
    assert 0 < rows.filled < 1
