"""What many documents share is cut from all but one, and never leaves a hole in the record."""

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.store.dataset import Dataset
from pipeline.dedup import STAGE, DedupConfig
from pipeline.document import Document
from tests.pipeline.dedup.corpora import document, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage

RNG = random.Random(21)
BANNER = "Subscribe to our newsletter for weekly updates."
FOOTER = "Copyright by the authors of this page,\nall rights reserved to everyone."


def text(words: int = 60) -> str:
    return " ".join(sentence_words(RNG, words))


def run(folder: Path, rows: list[Document], **settings: Any) -> Dataset:
    config = DedupConfig(**{"repeats": "line", "repeat_documents": 5, **settings})
    return run_shard_stage(STAGE, config, {"quality": publish(folder / "q", {"web/a": rows})}, folder / "d")


def texts(dataset: Dataset) -> dict[bytes, str]:
    rows = pq.read_table(dataset.local("data/web/a.parquet"), columns=["id", "text"]).to_pylist()
    return {row["id"]: row["text"] for row in rows}


def evidence(dataset: Dataset) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(dataset.local("evidence/web/a.parquet")).to_pylist()
    return rows


def test_a_line_of_many_documents_stays_in_the_best_one_only(tmp_path: Path) -> None:
    bodies = [(text(), text()) for _ in range(8)]
    rows = [document(f"d{i}", f"{a}\n* {BANNER}\n{b}", quality=i / 10) for i, (a, b) in enumerate(bodies)]
    dataset = run(tmp_path, rows)
    found = texts(dataset)
    assert found[rows[7]["id"]] == rows[7]["text"]
    for row, (a, b) in list(zip(rows, bodies, strict=True))[:7]:
        assert found[row["id"]] == f"{a}\n{b}"
    records = evidence(dataset)
    assert len(records) == 7
    assert {record["survivor_id"] for record in records} == {rows[7]["id"]}
    original = {row["id"]: row["text"] for row in rows}
    assert {original[record["id"]][record["start"] : record["end"]] for record in records} == {BANNER.rstrip(".")}


def test_what_few_documents_share_stays(tmp_path: Path) -> None:
    rows = [document(f"d{i}", f"{text()}\n{BANNER}") for i in range(4)] + [document(f"e{i}", text()) for i in range(4)]
    assert texts(run(tmp_path, rows)) == {row["id"]: row["text"] for row in rows}


def test_paragraphs(tmp_path: Path) -> None:
    bodies = [text() for _ in range(6)]
    rows = [document(f"d{i}", f"{body}\n\n{FOOTER}", quality=i / 10) for i, body in enumerate(bodies)]
    found = texts(run(tmp_path, rows, repeats="paragraph"))
    assert [found[row["id"]] for row in rows] == [*bodies[:5], rows[5]["text"]]


def test_runs_of_words_inside_paragraphs(tmp_path: Path) -> None:
    shared = text(40)
    bodies = [(text(), text()) for _ in range(6)]
    rows = [document(f"d{i}", f"{a} {shared} {b}", quality=i / 10) for i, (a, b) in enumerate(bodies)]
    found = texts(run(tmp_path, rows, repeats="window", window_words=20))
    assert [found[row["id"]] for row in rows[:5]] == [f"{a}\n{b}" for a, b in bodies[:5]]


def test_a_document_with_nothing_of_its_own_is_dropped_unless_others_rest_on_it(tmp_path: Path) -> None:
    lines = [text(8) for _ in range(3)]
    rows = [document(f"d{i}", f"{text()}\n" + "\n".join(lines), quality=0.5 + i / 100) for i in range(6)]
    empty = document("empty", "\n".join(lines[:2]), quality=0.1)
    other = document("rested on", "\n".join(lines[1:]), quality=0.1)
    copy = document("copy", "  \n".join(lines[1:]), quality=0.05)
    dataset = run(tmp_path, [*rows, empty, other, copy])
    fates = ledger(dataset)
    assert fates[empty["id"]]["rule"] == "repeated_line"
    assert fates[copy["id"]]["survivor_id"] == other["id"]
    assert texts(dataset)[other["id"]] == other["text"]
    assert {fate["survivor_id"] for fate in fates.values()} <= kept(dataset)
    assert dataset.manifest.counts.dropped == {"exact_duplicate": 1, "repeated_line": 1}


def test_code_is_left_alone(tmp_path: Path) -> None:
    line = "    raise NotImplementedError('this method must be implemented by a subclass')"
    rows = [document(f"d{i}", f"{text()}\n{line}", programming_language="Python") for i in range(8)]
    assert texts(run(tmp_path, rows)) == {row["id"]: row["text"] for row in rows}


@pytest.mark.parametrize("repeats", ["line", "paragraph", "window"])
def test_the_cut_into_blocks_does_not_change_a_byte(tmp_path: Path, repeats: str) -> None:
    rng = random.Random(5)
    shared = [text(30) for _ in range(5)]
    rows = [document(f"d{i}", f"{text()}\n\n{rng.choice(shared)}\n\n{text()}", quality=rng.random()) for i in range(60)]
    settings: dict[str, Any] = {"repeats": repeats, "window_words": 20}
    whole = run(tmp_path / "1", rows, **settings)
    cut = run(tmp_path / "2", rows, **settings, block_documents=25, memory_mb=128)
    assert whole.digest == cut.digest
    assert len(evidence(whole)) > 40
