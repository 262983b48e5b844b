"""Datasets of the ``datasets`` library, streamed shard by shard."""

import json
from pathlib import Path

import pytest

from infra.errors import InputError
from pipeline.extract.page import ExtractConfig
from pipeline.sources import hugging_face
from pipeline.sources.contract import Outcome, Part, Reading, SourceConfig
from tests.pipeline.sources.archives import documents, rules


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
    config = SourceConfig(name="test", kind="hugging_face", address=str(folder), **mapped)  # type: ignore[arg-type]
    parts = [Part.from_json(part.to_json()) for part in hugging_face.parts(config, [])]
    reading = Reading(config, ExtractConfig())
    return [outcome for part in parts for outcome in hugging_face.read(part, reading)]


def test_every_row_of_every_shard_once(folder: Path) -> None:
    config = SourceConfig(name="test", kind="hugging_face", address=str(folder))
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
