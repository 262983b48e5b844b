"""Real evaluation sets in real books: what is planted is found, and nothing else."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.decontaminate import STAGE, DecontaminateConfig
from pipeline.decontaminate.config import EvaluationSet
from pipeline.decontaminate.evaluations import read_texts
from pipeline.document import Document
from pipeline.words import normalised_words
from tests.pipeline.dedup.corpora import document, publish
from tests.support import run_shard_stage, shared_data

PLANTED = 30
SETS: tuple[dict[str, Any], ...] = (
    {"name": "gsm8k", "address": "gsm8k_test.jsonl", "fields": ("question", "answer")},
    {"name": "arc", "address": "arc_easy_dev.jsonl", "fields": ("question.stem", "question.choices.text")},
    {"name": "humaneval", "address": "HumanEval.jsonl.gz", "fields": ("prompt", "canonical_solution")},
)


def books(number: int) -> Iterator[str]:
    with gzip.open(shared_data("text_books.jsonl.gz"), "rt", encoding="utf-8") as lines:
        words = [word for line in lines for word in json.loads(line)["text"].split()]
    for i in range(number):
        yield " ".join(words[i * 400 : (i + 1) * 400])


@pytest.fixture(scope="module")
def evaluations() -> tuple[EvaluationSet, ...]:
    id_fields = {"gsm8k": "none", "arc": "id", "humaneval": "task_id"}
    return tuple(
        EvaluationSet(**{**one, "address": str(shared_data(f"eval/{one['address']}"))}, id_field=id_fields[one["name"]])
        for one in SETS
    )


def test_items_in_books_are_found_by_each_of_their_fields(
    tmp_path: Path, evaluations: tuple[EvaluationSet, ...]
) -> None:
    rng = random.Random(1)
    clean = list(books(800))
    rows: list[Document] = [document(f"clean/{i}", text) for i, text in enumerate(clean)]
    for evaluation in evaluations:
        long = [text for text in read_texts(evaluation, {}) if len(normalised_words(text.text)) >= 16]
        for text in rng.sample(long, PLANTED):
            before, _, after = rng.choice(clean).partition(". ")
            rows.append(document(f"{evaluation.name}/{text.item}/{text.field}", f"{before}. {text.text} {after}"))
    inputs = {"dedup": publish(tmp_path / "in", {"web/a": rows})}
    config = DecontaminateConfig(evaluations=evaluations, policy="report")
    dataset = run_shard_stage(STAGE, config, inputs, tmp_path / "out")
    found: dict[bytes, set[tuple[str, str, str]]] = {}
    for row in pq.read_table(dataset.local("evidence/web/a.parquet")).to_pylist():
        found.setdefault(row["id"], set()).add((row["evaluation"], row["item"], row["field"]))
    named: Counter[str] = Counter()
    for row in rows:
        name, item, field = (row["origin"]["record_id"].split("/", 1)[0], *_rest(row["origin"]["record_id"]))
        if name == "clean":
            assert row["id"] not in found
        else:
            named[name] += (name, item, field) in found.get(row["id"], set())
    assert named == {evaluation.name: PLANTED for evaluation in evaluations}


def _rest(record: str) -> tuple[str, str]:
    """Item and field: an item's own name may contain a slash."""
    item, _, field = record.split("/", 1)[1].rpartition("/")
    return item, field
