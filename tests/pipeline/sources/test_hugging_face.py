"""Datasets of the ``datasets`` library, streamed shard by shard."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import InputError
from pipeline.extract.page import ExtractConfig
from pipeline.sources import hugging_face
from pipeline.sources.contract import Outcome, Part, Reading
from tests.pipeline.sources.archives import documents, rules
from tests.support import source_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        rows = [{"body": f"Text {number} {row}", "id": f"{number}-{row}", "other": 1} for row in range(4)]
        rows.append({"body": "", "id": f"{number}-empty", "other": 2})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"train-{number:05}-of-00003.jsonl").write_text(lines)
    return tmp_path


def read(folder: Path, **options: object) -> list[Outcome]:
    mapped = {"text_column": "body", "id_column": "id", **options}
    config = source_config(name="test", kind="hugging_face", address=str(folder), **mapped)
    parts = [Part.from_json(part.to_json()) for part in hugging_face.parts(config, [])]
    reading = Reading(config, ExtractConfig())
    return [outcome for part in parts for outcome in hugging_face.read(part, reading)]


def test_every_row_of_every_shard_once(folder: Path) -> None:
    config = source_config(name="test", kind="hugging_face", address=str(folder))
    assert len(list(hugging_face.parts(config, []))) == 3
    outcomes = read(folder)
    texts = sorted(document["text"] for document in documents(outcomes))
    assert texts == [f"Text {number} {row}" for number in range(3) for row in range(4)]
    assert rules(outcomes) == ["no_text"] * 3
    assert len({outcome["id"] for outcome in outcomes}) == 15


def test_what_is_not_there_is_one_sentence(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no column words"):
        read(folder, text_column="words")
    with pytest.raises(InputError, match="cannot be read"):
        read(folder, split="nowhere")
    with pytest.raises(InputError, match="cannot be read"):
        read(folder / "nothing")


def test_a_line_or_row_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "one"}\n{"body": 1}\n{broken\n{"body": "two", "id": {"x": NaN}}\n')
    outcomes = read(tmp_path)
    assert ([document["text"] for document in documents(outcomes)], rules(outcomes)) == (
        ["one", "two"],
        ["bad_json", "no_text"],
    )


def test_rows_of_the_library_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the hub are: with a text that is no UTF-8, and a file that breaks off."""
    texts = [b"one", b"na\xefve", b"two"]
    text = pa.Array.from_buffers(pa.string(), 3, pa.array(texts, pa.binary()).buffers())
    pq.write_table(pa.table({"body": text, "id": ["a", "b", "c"]}), tmp_path / "a.parquet")
    monkeypatch.setattr(hugging_face, "format_of", lambda files: "")
    outcomes = read(tmp_path)
    assert ([document["text"] for document in documents(outcomes)], rules(outcomes)) == (["one", "two"], ["not_utf8"])
