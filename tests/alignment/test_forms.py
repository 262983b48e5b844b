"""Conversations in every form in which they are published, and rows that nothing can be learnt from."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.chat_source import ChatSource
from alignment.chat_source import read as read_source
from alignment.conversations import cut, read_conversations
from alignment.forms import conversation_of, messages_from_json, messages_to_json
from alignment.records import Reading, Unusable
from alignment.turns import Conversation, Message
from pipeline.document import document_writer
from pipeline.extract.page import ExtractConfig
from pipeline.redact.spans import find_spans, mask
from pipeline.sources.contract import Part, is_fate
from pipeline.sources.contract import Reading as SourceReading
from pipeline.sources.files import find_archives
from tests.alignment.toys import LetterTokenizer
from tests.support import shared_data

PLAIN = (Message("user", "why?"), Message("assistant", "so"))
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def said(*turns: tuple[str, Any], names: tuple[str, str] = ("role", "content")) -> list[dict[str, Any]]:
    return [dict(zip(names, turn, strict=True)) for turn in turns]


def shared(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return said(*turns, names=("from", "value"))


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": said(("user", "why?"), ("assistant", "so"))},
        {"messages": json.dumps(said(("user", "why?"), ("assistant", "so"))), "tools": None},
        {
            "messages": said(
                ("User", [{"type": "text", "text": "why"}, {"type": "text", "text": "?"}]), ("assistant", "so")
            )
        },
        {  # OpenAI's responses
            "input": said(("user", [{"type": "input_text", "text": "why?"}])),
            "output": [{"type": "message", **said(("assistant", [{"type": "output_text", "text": "so"}]))[0]}],
        },
        {"conversations": shared(("human", "why?"), ("gpt", "so"))},
        {"conversations": [{"from": "human", "value": "why?", "weight": None}, {"from": "chatgpt", "value": "so"}]},
        {"conversation": said(("human", "why?"), ("bot", "so"))},
        {"conversations": {"from": ["human", "gpt"], "value": ["why?", "so"]}},
        {"instruction": "why?", "input": "", "output": "so"},
        {"instruction": "why?", "input": None, "response": "so", "history": []},
        {"prompt": "why?", "completion": "so"},
        {"prompt": said(("user", "why?")), "completion": said(("assistant", "so")), "label": True},
        {"question": "why?", "answer": "so"},
        {"input": "why?", "output": "so"},
        {"chosen": "\n\nHuman: why?\n\nAssistant: so", "rejected": "\n\nHuman: why?\n\nAssistant: no"},
        {"prompt": "why?", "chosen": said(("user", "why?"), ("assistant", "so")), "rejected": "no"},
        {"text": "Human: why?\n\nAssistant: so"},
    ],
)
def test_the_forms_of_one_conversation(raw: dict[str, Any]) -> None:
    assert conversation_of(raw).messages == PLAIN


def test_what_opens_a_chat_and_what_went_before() -> None:
    alpaca = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "Count.", "history": [["hi", "yo"]]}
    assert [(m.role, m.content) for m in conversation_of(alpaca).messages] == [
        ("system", "Count."), ("user", "hi"), ("assistant", "yo"), ("user", "Add.\n\n1 and 2"), ("assistant", "3"),
    ]  # fmt: skip
    rows = {"conversations": shared(("system", "s"), ("human", "why?"), ("gpt", "so")), "system": "another"}
    assert conversation_of(rows).messages == (Message("system", "s"), *PLAIN)


@pytest.mark.parametrize(
    "raw",
    [
        {
            "messages": [
                *said(("user", "1+2?")),
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **CALL}]},
                {"role": "tool", "tool_call_id": "", "content": "3"},
                *said(("assistant", "It is 3.")),
            ],
            "tools": [TOOL],
        },
        {
            "messages": [
                *said(("user", "1+2?")),
                {"role": "assistant", "function_call": {"name": "add", "arguments": '{"a": 1}'}},
                *said(("function", "3"), ("assistant", "It is 3.")),
            ],
            "functions": [TOOL],
        },
        {
            "conversations": shared(
                ("human", "1+2?"), ("function_call", '{"name": "add", "arguments": {"a": 1}}'), ("observation", "3"),
                ("gpt", "It is 3."),
            ),
            "tools": json.dumps([TOOL]),
        },
    ],
)  # fmt: skip
def test_calls_of_tools_are_carried_through(raw: dict[str, Any]) -> None:
    found = conversation_of(raw)
    assert found.messages == (
        Message("system", "", tools=(TOOL,)),
        Message("user", "1+2?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "3"),
        Message("assistant", "It is 3."),
    )
    assert messages_from_json(json.loads(json.dumps(messages_to_json(found.messages)))) == found.messages


def test_a_reply_behind_a_result_is_taught_with_what_was_asked_and_called() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    turns = (
        *PLAIN,
        Message("user", "sum"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "three"),
        Message("assistant", "it is three"),
    )
    tokenizer = LetterTokenizer()
    whole = cut(tokenizer, Conversation("x", turns), 500)
    assert len(whole.pieces) == 1 and not whole.untaught
    tight = len(cut(tokenizer, Conversation("x", turns[2:]), 500).pieces[0].ids)
    first, second = (
        cut(tokenizer, Conversation("x", turns), tight).pieces[0],
        cut(tokenizer, Conversation("x", turns), tight).pieces[-1],
    )
    assert tokenizer.decode(first.ids).startswith("why?so")
    assert tokenizer.decode(second.ids).startswith("sum") and tokenizer.decode(second.ids).endswith("it is three")
    learnt = [tokenizer.decode([i for i, m in zip(p.ids, p.loss_mask, strict=True) if m]) for p in whole.pieces]
    assert "three" in learnt[0] and "tool response" not in learnt[0].replace("_", " "), "a result is context"


REPORTED: list[tuple[dict[str, Any], str, str]] = [
    ({"conversations": shared(("human", "a"), ("gpt", None))}, "bad_message", "conversations[1]"),
    ({"conversations": shared(("human", "a"), (None, "b"))}, "bad_message", "conversations[1] has the role"),  # type: ignore[arg-type]
    ({"conversations": shared(("human", "a"))}, "no_reply", ""),
    ({"conversations": []}, "no_reply", ""),
    ({"messages": said(("user", "a"), ("assistant", " \n"))}, "no_reply", ""),
    ({"messages": said(("user", [{"type": "image", "url": "x"}]), ("assistant", "b"))}, "bad_message", "messages[0]"),
    ({"messages": said(("user", 3), ("assistant", "b"))}, "bad_message", "messages[0]"),
    ({"messages": ["a", "b"]}, "bad_message", "messages[0] is no object"),
    ({"messages": said(("user", "a"), ("ghost", "b"))}, "bad_message", "'ghost'"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "bad_message", "tool_calls[0]"),
    ({"conversations": shared(("human", "a"), ("function_call", "{torn"))}, "bad_message", "conversations[1].value"),
    ({"messages": said(("user", "a"), ("assistant", "b")), "tools": "[{torn"}, "bad_message", "tools is no JSON"),
    ({"messages": said(("user", "a"), ("assistant", "b")), "tools": {"a": 1}}, "bad_tools", "no list"),
    ({"prompt": "a", "completion": "b", "tools": [{"at": datetime.date(2020, 1, 1)}]}, "bad_tools", "JSON can hold"),
    ({"prompt": "a", "completion": "b", "tools": [{"most": math.nan}]}, "bad_tools", "JSON can hold"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": b"x"}}]}]},
        "bad_message",
        "messages[0].tool_calls is nothing",
    ),
    ({"messages": {"role": ["user", "assistant"], "content": ["a"]}}, "bad_message", "messages[1] has no text"),
    ({"instruction": "a", "output": "b", "history": [["x"]]}, "bad_message", "history[0]"),
    ({"instruction": "a", "output": 7}, "bad_message", "output is a int"),
    ({"prompt": "a", "completion": "b", "label": False}, "labelled_bad", ""),
    ({"messages": said(("user", "a"), ("assistant", "b")), "label": "False "}, "labelled_bad", ""),
    ({"instruction": "a", "output": "b", "history": '[["x"]]'}, "bad_message", "history[0]"),
    ({"instruction": "a", "output": "b", "history": {"x": "y"}}, "bad_message", "history is a dict"),
    ({"instruction": "a", "output": "b", "context": ["c"]}, "bad_message", "beside the instruction is a list"),
    ({"text": "only a text"}, "not_a_conversation", "its keys: text"),
]


@pytest.mark.parametrize(
    "mark", [{"weight": 0.0}, {"weight": "0"}, {"train": "False"}, {"training": False}, {"loss": False}]
)
def test_a_reply_that_is_marked_as_no_example_is_context(mark: dict[str, Any]) -> None:
    turns = said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    turns[1] |= mark
    assert [message.learn for message in conversation_of({"messages": turns}).messages] == [True, False, True, True]


@pytest.mark.parametrize(("raw", "reason", "words"), REPORTED)
def test_what_people_report_costs_its_row_and_names_its_field(raw: dict[str, Any], reason: str, words: str) -> None:
    with pytest.raises(Unusable) as caught:
        conversation_of(raw)
    assert caught.value.reason == reason and words in caught.value.detail


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("sft/gpteacher_codegen.json", 0.9),
        ("sft/roleplay-simple-deduped-roleplay-dataset.json", 0.9),
        ("sft/toolformer-similarity-0.6-dataset.json", 0.9),
        ("preference/hh-helpful-base.jsonl.gz", 0.99),
    ],
)
def test_every_row_of_published_sets_has_a_fate(name: str, share: float) -> None:
    path = shared_data(name)
    reading = Reading()
    found = list(read_conversations(path, reading))
    if path.suffix == ".json":
        assert len(found) + sum(reading.refused.values()) == len(json.loads(path.read_text()))
    assert reading.read == len(found) > share * (len(found) + sum(reading.refused.values()))
    assert all(message.content.strip() for conversation in found for message in conversation.messages[-1:])


def test_conversations_go_through_the_corpus_stages_as_documents(tmp_path: Path) -> None:
    rows = [
        {
            "id": "a",
            "messages": said(("user", "Mail ada@firm.de\n\nor\x1ecall?"), ("assistant", "No."), ("user", " x ")),
        },
        {"id": "b", "instruction": "Sum.", "output": "3", "system": "s", "tools": [TOOL]},
        {"messages": [*said(("user", "1+2?")), {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        {"id": "c", "messages": said(("user", "alone"))},
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{torn\n")
    source = ChatSource(name="chats", kind="alignment.chat_source:CHATS", address=str(path))
    (archive,) = find_archives(str(path), {})
    outcomes = list(read_source(Part(archive, 0, archive.size), SourceReading(source, ExtractConfig())))
    documents = [outcome for outcome in outcomes if not is_fate(outcome)]
    assert [outcome["rule"] for outcome in outcomes if is_fate(outcome)] == ["no_reply", "not_json"]
    with document_writer(tmp_path / "chats.parquet") as writer:
        for document in documents:
            text = document["text"]
            writer.write({**document, "text": mask(text, find_spans(text))})
    found = list(read_conversations(tmp_path / "chats.parquet"))
    known = [conversation_of(row) for row in rows[:3]]
    assert [each.id for each in found] == [each.id for each in known]
    assert [each.messages for each in found[1:]] == [each.messages for each in known[1:]]
    asked, *rest = found[0].messages
    assert asked.content == "Mail <EMAIL>\n\nor\ufffdcall?" and tuple(rest) == known[0].messages[1:]


def test_calls_in_a_table_have_the_arguments_of_their_own_function_alone(tmp_path: Path) -> None:
    def calling(name: str, **arguments: int) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return {"messages": [*said(("user", "do")), {"role": "assistant", "content": None, "tool_calls": [call]}]}

    rows = [calling("add", a=1, b=2), calling("root", of=9), {"messages": said(("user", "why?"), ("assistant", "so"))}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "calls.parquet")
    found = list(read_conversations(tmp_path / "calls.parquet"))
    assert [each.messages for each in found] == [conversation_of(row).messages for row in rows]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_what_was_thought_before_a_reply_stands_before_it(field: str) -> None:
    def said(reply: dict[str, Any]) -> str:
        asked = {"role": "user", "content": "12 + 7?", field: "not the asker's"}
        return conversation_of({"messages": [asked, {"role": "assistant", **reply}]}).messages[1].content

    assert said({"content": "19", field: " 12 + 7 is 19.\n"}) == "<think>\n12 + 7 is 19.\n</think>\n\n19"
    assert said({"content": "<think>so</think>19", field: "so"}) == "<think>so</think>19", "not twice"
    assert said({"content": "19", field: {"effort": "high"}}) == said({"content": "19", field: None}) == "19"
    assert said({"content": [{"type": "text", "text": "19"}], field: [{"type": "text", "text": "so"}]}).endswith(
        "</think>\n\n19"
    )


def test_thoughts_among_the_parts_of_a_reply_and_of_one_that_was_cut_off() -> None:
    def reply(**more: Any) -> Message:
        return conversation_of({"messages": [*said(("user", "why?")), {"role": "assistant", **more}]}).messages[1]

    thought, text = {"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "so"}
    assert reply(content=[thought, text]).content == "<think>\nhm\n</think>\n\nso"
    assert reply(content=[{"type": "redacted_thinking", "data": "x"}, text]).content == "so"
    called = reply(content=None, reasoning_content="hm", tool_calls=[{"function": {"name": "look", "arguments": "{}"}}])
    assert called.content.startswith("<think>\nhm") and called.tool_calls
    for cut_off in ({"content": ""}, {"content": [thought]}):
        with pytest.raises(Unusable, match="no_reply"):
            reply(**cut_off, reasoning_content="hm and then")
    with pytest.raises(Unusable, match="bad_message"):
        reply(content=None, reasoning_content="hm and then")
