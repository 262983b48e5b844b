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


def test_a_hub_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", away)
    config = source_config(name="test", kind="hugging_face", address="owner/name")
    with pytest.raises(InputError, match=r"cannot be reached: Couldn't reach .*\(owner/name\)\. Check the address"):
        list(hugging_face.parts(config, []))


def test_rows_of_the_library_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the hub are: with a text that is no UTF-8, and a file that breaks off."""
    texts = [b"one", b"na\xefve", b"two"]
    text = pa.Array.from_buffers(pa.string(), 3, pa.array(texts, pa.binary()).buffers())
    pq.write_table(pa.table({"body": text, "id": ["a", "b", "c"]}), tmp_path / "a.parquet")
    monkeypatch.setattr(hugging_face, "format_of", lambda files: "")
    outcomes = read(tmp_path)
    assert ([document["text"] for document in documents(outcomes)], rules(outcomes)) == (["one", "two"], ["not_utf8"])


def test_of_a_folder_of_text_files_each_is_a_document_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "a.txt").write_text("First line.\nSecond line.\n\nAnother paragraph.")
    (tmp_path / "more/a.txt").write_bytes("\ufeffGr\u00fc\u00dfe".encode("utf-16-le"))
    (tmp_path / "more/b.txt").write_text("  \n")
    (tmp_path / "more/c.txt").write_bytes(b"\x80no\0text")
    unmapped = {"text_column": "text", "id_column": None}
    outcomes = read(tmp_path, **unmapped)
    found = {
        document["url"].removeprefix(f"{tmp_path}/train/".lstrip("/")): document["text"]
        for document in documents(outcomes)
    }
    assert found == {"a.txt": "First line.\nSecond line.\n\nAnother paragraph.", "more/a.txt": "Gr\u00fc\u00dfe"}
    assert rules(outcomes) == ["no_text", "not_utf8"]
    for name in ("more/a.txt", "more/b.txt", "more/c.txt"):
        (tmp_path / name).unlink()
    assert len(documents(read(tmp_path, sample_by="line", **unmapped))) == 3
    assert len(documents(read(tmp_path, sample_by="paragraph", **unmapped))) == 2


def test_files_of_one_name_in_two_folders_stay_two(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text('{"body": "the same text"}\n')
    first, second = documents(read(tmp_path, id_column=None))
    assert first["id"] != second["id"] and first["url"].endswith("one/a.jsonl#" + first["origin"]["record_id"])
