"""Bits of each item of an evaluation, on models whose bits are known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.errors import InputError
from infra.job import JobRequest, load_request, load_result, write_request
from infra.store.dataset import Dataset
from pipeline.shards.format import Row, shard_schema, write_shard
from pipeline.tokenizer import Tokenizer
from tests.support import write_dataset
from tests.training.folders import tiny_model
from tests.training.test_evaluate import VOCABULARY, real_tokenizer, uniform_model
from training.answers import (
    ITEMS_SCHEMA,
    TOKENS,
    AnswersConfig,
    Evaluation,
    check,
    external,
    inputs,
    read_items,
    run,
    score_items,
)
from training.hub_format import save_model
from training.text_model import load_text_model

ROWS = [{"q": f"what is {word}?", "a": f"it is {word}", "of": word[:1]} for word in ("bead", "cafe", "café", "dead")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("answers")
    tokenizer = real_tokenizer(root / "tokenizer" / "data")
    save_model(uniform_model(), root / "pretrain" / "data" / "model", root / "tokenizer" / "data")
    save_model(tiny_model(vocab_size=VOCABULARY), root / "tuned", root / "tokenizer" / "data")
    schema = shard_schema(VOCABULARY, 32, {"tokenizer_digest": tokenizer.digest, "mixture": {}}, with_bytes=False)
    (root / "shards" / "data").mkdir(parents=True)
    write_shard(root / "shards" / "data" / "train.arrow", schema, iter([Row([np.arange(20)])]), 0)
    for name in ("pretrain", "shards"):
        write_dataset(root / name, name, {})
    return root


def items_file(folder: Path, rows: list[dict[str, Any]], name: str = "items.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def measured(home: Path, folder: Path, *evaluations: Evaluation, **settings: Any) -> list[dict[str, Any]]:
    roles = {name: Dataset.open(str(home / name)) for name in ("pretrain", "shards")}
    config = AnswersConfig(evaluations=evaluations, **settings).model_dump()
    (folder / "work").mkdir()
    run(load_request(write_request(JobRequest("answers", "0" * 12, config, roles, folder / "out", folder / "work"))))
    result = load_result(folder / "work")
    assert result is not None
    assert {output.path for output in result.outputs} == {"data/items.parquet", *([TOKENS] if settings else [])}
    table = pq.read_table(folder / "out" / "data" / "items.parquet")
    assert table.schema.equals(ITEMS_SCHEMA)
    return table.to_pylist()


def test_stage_writes_the_bits_of_every_answer(home: Path, tmp_path: Path) -> None:
    file = items_file(tmp_path, ROWS)
    asked = Evaluation(name="words", file=file, prompt="q", answer="a", cluster="of", domain="code")
    whole = Evaluation(name="texts", file=file, answer="a", max_items=2)
    rows = measured(home, tmp_path, asked, whole)
    assert [(row["task"], row["item"]) for row in rows] == [("words", str(n)) for n in range(4)] + [
        ("texts", "0"),
        ("texts", "1"),
    ]
    assert [row["cluster"] for row in rows] == ["b", "c", "c", "d", "0", "1"]
    assert [row["domain"] for row in rows] == ["code"] * 4 + ["prose"] * 2
    assert [row["bytes"] for row in rows[:4]] == [len(row["a"].encode()) for row in ROWS]
    tokenizer = Tokenizer.load(home / "tokenizer" / "data")
    # All logits equal: as many bits a token, and the tokens are the answer's, not the prompt's.
    for row, item in zip(rows, [*ROWS, *ROWS[:2]], strict=True):
        tokens = len(tokenizer.encode(item["a"]))
        if row["task"] == "words":
            tokens = len(tokenizer.encode(f"{item['q']} {item['a']}")) - len(tokenizer.encode(item["q"]))
        assert row["bits"] == pytest.approx(tokens * math.log2(VOCABULARY), rel=1e-5)


def test_the_loss_of_every_token_is_written_where_it_is_asked_for(home: Path, tmp_path: Path) -> None:
    texts = ["bead cafe fig " * 30, "cafe", "hij"]
    evaluation = Evaluation(name="texts", file=items_file(tmp_path, [{"text": text} for text in texts]))
    rows = measured(home, tmp_path, evaluation, token_nats=True)
    nats = pq.read_table(tmp_path / "out" / TOKENS)["nats"].to_pylist()
    uniform = load_text_model(home / "pretrain" / "data" / "model", "cpu")
    assert [len(each) for each in nats] == [len(uniform.encode(text)) for text in texts]
    assert [sum(each) / math.log(2) for each in nats] == pytest.approx([row["bits"] for row in rows], rel=1e-5)


def test_text_longer_than_a_row_is_scored_whole_and_from_no_further_back(home: Path, tmp_path: Path) -> None:
    texts = ["bead cafe fig " * 30, "bead cafe fig " * 30 + "hij"]
    evaluation = Evaluation(name="long", file=items_file(tmp_path, [{"text": text} for text in texts]))
    items = list(read_items(evaluation, {}))
    uniform = load_text_model(home / "pretrain" / "data" / "model", "cpu")
    tokens = [len(uniform.encode(text)) for text in texts]
    assert min(tokens) > 128, "longer than the model's context"
    assert score_items(uniform, items, 32, 4).bits == pytest.approx(np.array(tokens) * math.log2(VOCABULARY), rel=1e-5)
    model = load_text_model(home / "tuned", "cpu")
    narrow, wide = score_items(model, items, 32, 4).bits, score_items(model, items, 96, 4).bits
    assert not np.allclose(narrow, wide)
    assert score_items(model, items, 32, 1).bits == pytest.approx(narrow, rel=1e-5)
    short = Evaluation(name="short", file=evaluation.file, max_characters=14)
    assert [item.bytes for item in read_items(short, {})] == [14, 14]


def test_a_field_may_be_of_an_object_within_an_item(tmp_path: Path) -> None:
    rows = [{"q": {"text": "who?"}, "a": {"gold": {"text": "me"}}, "page": {"id": 7}}, {"q.text": "?", "a": {}}]
    evaluation = Evaluation(
        name="e", file=items_file(tmp_path, rows), prompt="q.text", answer="a.gold.text", cluster="page.id"
    )
    found = read_items(evaluation, {})
    item = next(found)
    assert (item.given, item.whole, item.cluster) == ("who? ", "who? me", "7")
    with pytest.raises(InputError, match="item 2 of evaluation 'e' has no text in 'a.gold.text'"):
        next(found)


@pytest.mark.parametrize(
    ("rows", "fields", "sentence"),
    [
        ([], {}, "evaluation 'e' has no items"),
        ([{"a": "x"}], {"answer": "b"}, "item 1 of evaluation 'e' has no text in 'b'; its fields: a"),
        ([{"a": " "}], {"answer": "a"}, "has no text in 'a'"),
        ([{"a": 3}], {"answer": "a"}, "has no text in 'a'"),
        ([{"a": "x"}], {"answer": "a", "prompt": "q"}, "has no text in 'q'"),
        ([{"a": "x"}], {"answer": "a", "cluster": "page"}, "has no text in 'page'"),
        ([{"a": {"text": ["x"]}}], {"answer": "a.text"}, "has no text in 'a.text', but list"),
        ([{"a": {"b": {"c": "x"}}}], {"answer": "a.b.d"}, "has no text in 'a.b.d'"),
        ([{"a": "x"}], {"answer": "a.b"}, "has no text in 'a.b'"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_trained(
    tmp_path: Path, rows: list[dict[str, Any]], fields: dict[str, Any], sentence: str
) -> None:
    config = AnswersConfig(evaluations=(Evaluation(name="e", file=items_file(tmp_path, rows), **fields),))
    with pytest.raises(InputError, match=sentence):
        check(config)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file of evaluation 'e' is not there"):
        check(AnswersConfig(evaluations=(Evaluation(name="e", file=str(tmp_path / "nothing.jsonl")),)))


def test_inputs_and_identity_follow_the_files(tmp_path: Path) -> None:
    assert set(inputs(AnswersConfig())) == {"pretrain", "shards", "sample"}
    own = AnswersConfig(evaluations=(Evaluation(name="e", file=items_file(tmp_path, ROWS), answer="a"),))
    assert set(inputs(own)) == {"pretrain", "shards"}
    before = external(own)
    items_file(tmp_path, ROWS[1:])
    assert external(own) != before
    with pytest.raises(ValueError, match="same name"):
        AnswersConfig(evaluations=own.evaluations * 2)
