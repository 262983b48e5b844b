"""Comparisons in every form in which they are published, and records that are none."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignment.forms import conversation_of
from alignment.pair_files import Pair, rated_of, read_comparisons
from alignment.records import Reading, Unusable
from alignment.turns import Message
from infra.errors import InputError
from tests.support import shared_data

USER, MODEL = (lambda text: {"role": "user", "content": text}), (lambda text: {"role": "assistant", "content": text})
PROMPT = (Message("user", "why?"),)


def read(path: Path) -> tuple[list[Pair], Reading]:
    reading = Reading()
    return [found for _, found in read_comparisons(path, reading)], reading


def one(tmp_path: Path, record: Any) -> Pair | str:
    """The comparison of a record, or the reason against it."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(record) + "\n")
    found, reading = read(path)
    return found[0] if found else next(iter(reading.refused))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "why?", "chosen": "so", "rejected": " no "},
        {"prompt": [USER("why?")], "chosen": [MODEL("so")], "rejected": [MODEL("no")]},
        {"prompt": [USER("why?")], "chosen": MODEL("so"), "rejected": "no"},
        {"chosen": [USER("why?"), MODEL("so")], "rejected": [USER("why?"), MODEL("no")]},
        {"prompt": "why?", "chosen": [USER("why?"), MODEL("so")], "rejected": [USER("why?"), MODEL("no")]},
        {"chosen": "\n\nHuman: why?\n\nAssistant: so", "rejected": "\n\nHuman: why?\n\nAssistant: no\n"},
        {"prompt": "\n\nHuman: why?\n\nAssistant:", "chosen": " so", "rejected": " no"},
        {"prompt": [USER([{"type": "text", "text": "why?"}])], "chosen": "so", "rejected": "no", "score_chosen": 4.5},
        {"question": "why?", "chosen": "so", "rejected": "no"},
        {"instruction": "why?", "input": "", "chosen_response": "so", "rejected_response": "no"},
        {"conversations": [{"from": "human", "value": "why?"}], "chosen": MODEL("so"), "rejected": MODEL("no")},
        {
            "input": {"messages": [USER("why?")]},
            "preferred_output": [MODEL("so")],
            "non_preferred_output": [MODEL("no")],
        },
        {
            "conversation_a": [USER("why?"), MODEL("no")],
            "conversation_b": [USER("why?"), MODEL("so")],
            "winner": "model_b",
        },
    ],
)
def test_the_forms_of_one_comparison(tmp_path: Path, record: dict[str, Any]) -> None:
    found = one(tmp_path, record)
    assert isinstance(found, Pair), found
    assert (found.prompt, found.chosen, found.rejected) == (PROMPT, "so", "no")


def test_an_arena_knows_ties_and_a_table_of_texts_labels(tmp_path: Path) -> None:
    tied = one(tmp_path, {"prompt": "why?", "a": "so", "b": "no", "winner": "tie (bothbad)"})
    assert isinstance(tied, Pair) and tied.tie and (tied.chosen, tied.rejected) == ("so", "no")
    whole = one(tmp_path, {"instruction": "add", "input": "1 + 1", "chosen": "2", "rejected": "3"})
    assert isinstance(whole, Pair) and whole.prompt[0].content == "add\n\n1 + 1"
    asked = {"prompt": "why?", "completion": "so"}
    assert [rated_of(asked | {"label": label}).label for label in ("True", "false", "1", 0)] == [
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(Unusable, match="not to be learnt"):
        conversation_of(asked | {"label": "false"})


def test_messages_of_a_table_are_json(tmp_path: Path) -> None:
    sides = {name: json.dumps([USER("why?"), MODEL(text)]) for name, text in (("chosen", "so"), ("rejected", "no"))}
    for record in (sides, {"prompt": json.dumps([USER("why?")]), "chosen": "so", "rejected": "no"}):
        found = one(tmp_path, record)
        assert isinstance(found, Pair) and (found.prompt, found.chosen, found.rejected) == (PROMPT, "so", "no")
    other = one(tmp_path, {"prompt": "why?", "chosen": '[{"a": 1}]', "rejected": "[{"})
    assert isinstance(other, Pair) and (other.chosen, other.rejected) == ('[{"a": 1}]', "[{")


def test_a_transcript_of_many_turns_and_a_system_text(tmp_path: Path) -> None:
    chat = "\n\nHuman: one\n\nAssistant: two\nthe Human: said\n\nHuman: three\n\nAssistant:"
    found = one(tmp_path, {"id": 5, "system": "be kind", "chosen": chat + " yes", "rejected": chat + " no"})
    assert isinstance(found, Pair) and found.id == "5"
    assert [(turn.role, turn.content) for turn in found.prompt] == [
        ("system", "be kind"), ("user", "one"), ("assistant", "two\nthe Human: said"), ("user", "three"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "why?", "response_j": "a", "response_k": "b"}, "not_a_pair"),
        ({"prompt": "why?", "chosen": None, "rejected": "b"}, "not_a_pair"),
        ({"prompt": "why?", "chosen": "a", "rejected": "a "}, "same_replies"),
        ({"prompt": "why?", "chosen": "", "rejected": "a"}, "empty_reply"),
        ({"prompt": "why?", "chosen": [], "rejected": "a"}, "empty_reply"),
        ({"prompt": "", "chosen": "b", "rejected": "a"}, "no_prompt"),
        ({"chosen": "b", "rejected": "a"}, "no_prompt"),
        ({"prompt": "why?", "chosen": 3, "rejected": "a"}, "bad_message"),
        ({"prompt": [{"role": "robot", "content": ""}], "chosen": "b", "rejected": "a"}, "bad_message"),
        ({"chosen": [USER("x"), MODEL("a")], "rejected": [USER("y"), MODEL("b")]}, "different_prompts"),
        ({"chosen": [USER("x")], "rejected": [USER("x"), MODEL("b")]}, "no_reply"),
        ("chosen", "not_an_object"),
        ({"prompt": "why?", "a": "x", "b": "y", "winner": "c"}, "bad_vote"),
        ({"prompt": "why?", "a": "x", "winner": "a"}, "not_a_pair"),
        ({"prompt": "why?", "a": "x", "b": "y", "winner": "a", "weight": -1}, "bad_number"),
        ({"prompt": "why?", "chosen": "x", "rejected": "y", "margin": 1e39}, "bad_number"),
        ({"prompt": "why?", "chosen": "x", "rejected": "y", "margin": "much"}, "bad_number"),
    ],
)
def test_what_is_no_comparison_costs_itself(tmp_path: Path, record: Any, reason: str) -> None:
    assert one(tmp_path, record) == reason


def test_parquet_loses_only_the_row_whose_text_is_none(tmp_path: Path) -> None:
    texts = pa.array([b"so", b"\xff\xfe", b"yes"], pa.binary()).view(pa.string())
    table = pa.table({"prompt": ["a", "b", "c"], "chosen": texts, "rejected": ["no"] * 3})
    pq.write_table(table, tmp_path / "pairs.parquet")
    found, reading = read(tmp_path / "pairs.parquet")
    assert [comparison.prompt[0].content for comparison in found] == ["a", "c"]
    assert reading.refused == {"not_utf8": 1}
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "pairs.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "torn.parquet")


def test_every_published_pair_of_hh_rlhf_has_a_fate() -> None:
    path = shared_data("preference/hh-helpful-online.jsonl.gz")
    with gzip.open(path, "rt") as stream:
        lines = sum(1 for _ in stream)
    found, reading = read(path)
    assert reading.read == len(found) and len(found) + sum(reading.refused.values()) == lines
    assert len(found) > 0.95 * lines


@pytest.mark.parametrize(
    ("more", "chosen", "tie", "margin", "weight"),
    [
        ({"winner": "a"}, "x", False, 0.0, 1.0),
        ({"winner": "b", "weight": 0.5, "margin": 2}, "y", False, 2.0, 0.5),
        ({"winner": "tie", "margin": 2}, "x", True, 0.0, 1.0),
        ({"winner": "both_bad"}, "x", True, 0.0, 1.0),
    ],
)
def test_a_vote_is_a_comparison(
    tmp_path: Path, more: dict[str, Any], chosen: str, tie: bool, margin: float, weight: float
) -> None:
    found = one(tmp_path, {"prompt": "why?", "a": "x", "b": MODEL("y"), "annotator": 7, **more})
    assert isinstance(found, Pair) and found.annotator == "7" and {found.chosen, found.rejected} == {"x", "y"}
    assert (found.chosen, found.tie, found.margin, found.weight) == (chosen, tie, margin, weight)


def test_scores_are_a_margin_unless_they_contradict() -> None:
    from alignment.pair_files import comparison_of

    row = {"prompt": "why?", "chosen": "x", "rejected": "y", "score_chosen": 4.5, "score_rejected": 2}
    assert comparison_of(row).margin == 2.5 and comparison_of(row | {"score_chosen": 1}).margin == 0
    assert comparison_of(row | {"margin": 0.5}).margin == 0.5


def test_rated_replies_are_read() -> None:
    found = rated_of({"prompt": [USER("why?")], "completion": [MODEL("so ")], "label": False, "weight": 2})
    assert (found.prompt, found.completion, found.label, found.weight) == (PROMPT, "so", False, 2.0)
    assert rated_of({"prompt": "why?", "completion": "so", "label": 1}).label
    whole = rated_of({"messages": [USER("why?"), MODEL("so")], "label": False})
    assert (whole.prompt, whole.completion, whole.label) == (PROMPT, "so", False)
    for row, reason in [
        ({"prompt": "a", "completion": "b"}, "not_rated"),
        ({"completion": "b", "label": True}, "no_prompt"),
    ]:
        with pytest.raises(Unusable, match=reason):
            rated_of(row)
