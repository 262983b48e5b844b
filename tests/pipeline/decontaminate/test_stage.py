"""Decontamination: planted items are found wherever they stand, and nothing else is."""

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from infra.errors import ConfigError, InputError
from infra.fingerprint import fingerprint_payload
from infra.store.dataset import Dataset
from pipeline.decontaminate import STAGE, DecontaminateConfig
from pipeline.decontaminate.config import EvaluationSet
from pipeline.decontaminate.evaluations import read_texts
from pipeline.document import Document
from tests.pipeline.dedup.corpora import document, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage, write_dataset

RNG = random.Random(17)
ITEMS = [
    {"task_id": f"T/{i}", "prompt": " ".join(sentence_words(RNG, 60)), "answer": " ".join(sentence_words(RNG, 30))}
    for i in range(20)
]
FILLER = [" ".join(sentence_words(RNG, 200)) for _ in range(30)]


def run(folder: Path, documents: list[Document], items: list[dict[str, Any]] = ITEMS, **settings: Any) -> Dataset:
    lines = "\n".join(json.dumps(item) for item in items)
    sample = write_dataset(folder / "sample", "sample", {"data/eval/t.jsonl": lines.encode()})
    settings.setdefault(
        "evaluations", [{"name": "t", "address": "dataset://sample/eval/t.jsonl", "fields": ["prompt", "answer"]}]
    )
    inputs = {"dedup": publish(folder / "dedup", {"web/a": documents}), "sample": sample}
    return run_shard_stage(STAGE, DecontaminateConfig(**settings), inputs, folder / "out")


def evidence(dataset: Dataset) -> list[dict[str, Any]]:
    return [row for file in dataset.files("evidence/") for row in pq.read_table(dataset.local(file.path)).to_pylist()]


def test_clean_documents_pass_unchanged(tmp_path: Path) -> None:
    rows = [document(f"d{i}", text, url=f"https://x/{i}") for i, text in enumerate(FILLER)]
    dataset = run(tmp_path, rows)
    assert kept(dataset) == {row["id"] for row in rows}
    assert evidence(dataset) == []
    table = pq.read_table(dataset.local("data/web/a.parquet"))
    assert table["text"].to_pylist() == FILLER


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ITEMS[3]["prompt"], id="alone"),
        pytest.param(f"{FILLER[0]}\n\n{ITEMS[3]['prompt']}\n\n{FILLER[1]}", id="a paragraph"),
        pytest.param(f"{FILLER[0]} {ITEMS[3]['prompt']} {FILLER[1]}", id="inside a paragraph"),
        pytest.param(ITEMS[3]["prompt"].upper().replace(" ", ",  "), id="other case and punctuation"),
        pytest.param(FILLER[0] + "\n\n" + ITEMS[3]["prompt"].replace(" ", "\n"), id="line by line"),
        pytest.param(" ".join(ITEMS[3]["prompt"].split()[:45]), id="most of it"),
    ],
)
def test_a_planted_item_is_found_and_named(tmp_path: Path, text: str) -> None:
    rows = [document("planted", text), document("clean", FILLER[5])]
    dataset = run(tmp_path, rows)
    assert kept(dataset) == {rows[1]["id"]}
    fate = ledger(dataset)[rows[0]["id"]]
    assert fate["rule"] == "evaluation_overlap"
    assert "T/3" in fate["detail"]
    assert {(row["item"], row["field"]) for row in evidence(dataset)} == {("T/3", "prompt")}
    assert dataset.manifest.stats["evaluations"]["t"] == {"items": 20, "items_met": 1, "documents": 1}


def test_the_answer_alone_is_found(tmp_path: Path) -> None:
    rows = [document("planted", f"{FILLER[0]} {ITEMS[7]['answer']} {FILLER[1]}"), document("clean", FILLER[2])]
    assert evidence(run(tmp_path, rows))[0]["field"] == "answer"


def test_a_quotation_is_not_contamination(tmp_path: Path) -> None:
    quoted = " ".join(ITEMS[3]["prompt"].split()[:16])
    assert len(kept(run(tmp_path, [document("d", f"{FILLER[0]} {quoted} {FILLER[1]}")]))) == 1


def test_what_many_items_share_is_their_template(tmp_path: Path) -> None:
    template = " ".join(sentence_words(random.Random(1), 30))
    items = [{**item, "prompt": f"{template} {item['prompt']}"} for item in ITEMS]
    rows = [document("template", f"{template}\n\n{FILLER[0]}"), document("planted", items[0]["prompt"])]
    assert kept(run(tmp_path, rows, items)) == {rows[0]["id"]}


def test_named_boilerplate_does_not_count(tmp_path: Path) -> None:
    rows = [document("d", ITEMS[3]["prompt"]), document("e", FILLER[0])]
    assert len(kept(run(tmp_path, rows, boilerplate=[ITEMS[3]["prompt"]]))) == 2


def test_numbers_are_no_evidence(tmp_path: Path) -> None:
    numbers = " ".join(str(i) for i in range(100))
    items = [{"task_id": "n", "prompt": numbers, "answer": " ".join(sentence_words(RNG, 20))}]
    assert len(kept(run(tmp_path, [document("d", numbers)], items))) == 1


def test_short_items_must_be_a_whole_paragraph(tmp_path: Path) -> None:
    items = [{"task_id": "s", "prompt": "one two three four five six seven eight nine", "answer": "forty two"}]
    rows = [
        document("paragraph", f"{FILLER[0]}\n\nOne two three four five six seven eight nine.\n\n{FILLER[1]}"),
        document("inside", f"{FILLER[0]} one two three four five six seven eight nine ten"),
        document("too short", f"{FILLER[0]}\n\nforty two\n\n{FILLER[1]}"),
    ]
    assert kept(run(tmp_path, rows, items)) == {rows[1]["id"], rows[2]["id"]}


def test_cut_removes_the_part_and_keeps_the_rest(tmp_path: Path) -> None:
    rows = [
        document("paragraph", f"{FILLER[0]}\n\n{ITEMS[3]['prompt']}\n\n{FILLER[1]}"),
        document("inside", f"{FILLER[2]} {ITEMS[4]['prompt']} {FILLER[3]}"),
        document("nothing else", ITEMS[5]["prompt"]),
    ]
    dataset = run(tmp_path, rows, policy="cut")
    texts = pq.read_table(dataset.local("data/web/a.parquet"))["text"].to_pylist()
    assert texts == [f"{FILLER[0]}\n\n{FILLER[1]}", f"{FILLER[2]}\n\n{FILLER[3]}"]
    assert set(ledger(dataset)) == {rows[2]["id"]}
    assert {row["action"] for row in evidence(dataset)} == {"cut", "drop"}


def test_evidence_points_into_the_text(tmp_path: Path) -> None:
    text = f"é{FILLER[0]}\n\n{ITEMS[3]['prompt']}\n\n{FILLER[1]}"
    dataset = run(tmp_path, [document("d", text)], policy="report")
    assert len(kept(dataset)) == 1
    for row in evidence(dataset):
        assert text[row["start"] : row["end"]] == ITEMS[3]["prompt"]
        assert row["action"] == "report"


def test_parquet_evaluations_and_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "mc.parquet"
    choices = [" ".join(sentence_words(RNG, 15)) for _ in range(4)]
    pq.write_table(pa.Table.from_pylist([{"task_id": "q", "question": {"choices": choices}}]), path)
    evaluations = [{"name": "mc", "address": str(path), "fields": ["question.choices"]}]
    rows = [document("d", "\n".join(choices)), document("e", FILLER[0])]
    assert kept(run(tmp_path, rows, evaluations=evaluations)) == {rows[1]["id"]}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress, bytes])
def test_a_set_is_read_whatever_it_is_compressed_with(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(pack(b'{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n'))
    evaluation = EvaluationSet(name="own", address=str(path), fields=("text",), id_field="id")
    assert [(text.item, text.text) for text in read_texts(evaluation, {})] == [("1", "one"), ("2", "two")]


def test_a_damaged_set_is_said(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 1, "text": "one"}\n')[:-3])
    with pytest.raises(InputError, match="the file is damaged: the gzip data ends early"):
        list(read_texts(EvaluationSet(name="own", address=str(path), fields=("text",)), {}))


def test_missing_sets_and_fields_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no text in question: its items have answer, prompt, task_id"):
        run(
            tmp_path / "1",
            [document("d", "x")],
            evaluations=[{"name": "t", "address": "dataset://sample/eval/t.jsonl", "fields": ["question"]}],
        )
    with pytest.raises(InputError, match="is not there"):
        run(tmp_path / "2", [document("d", "x")], evaluations=[{"name": "t", "address": str(tmp_path / "no.jsonl")}])
    (tmp_path / "bad.jsonl").write_text('{"prompt": 1}\n{oops\n')
    with pytest.raises(InputError, match="line 2 is not a JSON object"):
        run(tmp_path / "3", [document("d", "x")], evaluations=[{"name": "t", "address": str(tmp_path / "bad.jsonl")}])


def test_fields_inside_lists(tmp_path: Path) -> None:
    """As in ARC: a list of choices, each an object with a text."""
    choices = [" ".join(sentence_words(RNG, 15)) for _ in range(4)]
    items = [{"task_id": "q", "question": {"choices": [{"text": text, "label": "A"} for text in choices]}}]
    evaluations = [
        {"name": "t", "address": "dataset://sample/eval/t.jsonl", "fields": ["question.choices.text"]},
    ]
    rows = [document("d", "\n".join(choices)), document("e", FILLER[0])]
    assert kept(run(tmp_path, rows, items, evaluations=evaluations)) == {rows[1]["id"]}


def test_a_field_that_no_item_has_is_said_although_others_are_there(tmp_path: Path) -> None:
    evaluations = [{"name": "t", "address": "dataset://sample/eval/t.jsonl", "fields": ["prompt", "solution"]}]
    with pytest.raises(ConfigError, match="has no text in solution: its items have answer, prompt, task_id"):
        run(tmp_path, [document("d", "x")], evaluations=evaluations)


def test_hugging_face_datasets(tmp_path: Path) -> None:
    """The library takes the address of a folder for the name of a dataset: nothing is fetched."""
    (tmp_path / "set").mkdir()
    lines = "\n".join(json.dumps({"question": item["prompt"]}) for item in ITEMS)
    (tmp_path / "set" / "test.jsonl").write_text(lines)
    rows = [document("planted", ITEMS[2]["prompt"]), document("clean", FILLER[0])]
    evaluations = [{"name": "hub", "address": f"hf://{tmp_path}/set@test", "fields": ["question"]}]
    dataset = run(tmp_path, rows, evaluations=evaluations)
    assert kept(dataset) == {rows[1]["id"]}
    assert {row["item"] for row in evidence(dataset)} == {"3"}


def test_a_corrected_evaluation_set_is_scanned_for_again(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    config = DecontaminateConfig(evaluations=({"name": "own", "address": str(path)},))  # type: ignore[arg-type]
    path.write_text(json.dumps(ITEMS[0]))
    before = fingerprint_payload(STAGE, config, {})
    path.write_text(json.dumps(ITEMS[1]))
    assert fingerprint_payload(STAGE, config, {}) != before
    path.unlink()
    with pytest.raises(InputError, match="evaluation 'own' is not there"):
        fingerprint_payload(STAGE, config, {})


def test_only_what_is_asked_of_a_set_counts(tmp_path: Path) -> None:
    texts = [ITEMS[0]["prompt"], ITEMS[1]["prompt"], " ".join(ITEMS[0]["prompt"].split()[30:])]
    rows = [document(f"d{i}", f"{FILLER[i]}\n\n{text}", url=f"https://x/{i}") for i, text in enumerate(texts)]
    part = {"name": "t", "address": "dataset://sample/eval/t.jsonl", "fields": ["prompt"], "max_items": 1}
    dataset = run(tmp_path / "first", rows, evaluations=[part])
    assert dataset.manifest.stats["evaluations"]["t"] == {"items": 1, "items_met": 1, "documents": 2}
    beginning = len(" ".join(ITEMS[0]["prompt"].split()[:30]))
    dataset = run(tmp_path / "beginning", rows, evaluations=[{**part, "max_characters": beginning}])
    assert [row["url"] for row in ledger(dataset).values()] == ["https://x/0"]
