"""The package's own test: what its source, its stage and its rules do, by a run of its recipe."""

from pathlib import Path
from typing import Any

import pytest
import run

import headwater


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> headwater.Workspace:
    return run.main(str(tmp_path_factory.mktemp("addon")))


def lost(store: headwater.Workspace, stage: str) -> list[str]:
    return sorted(store[stage].ledger().read_all()["rule"].to_pylist())


def test_a_section_is_a_document_and_an_empty_one_has_its_reason(store: headwater.Workspace) -> None:
    assert store["ingest"].counts["incoming"] == 6
    assert lost(store, "ingest") == ["short_section"]
    offsets: Any = [
        row["origin"]["offset"] for batch in store["ingest"].batches(["origin"]) for row in batch.to_pylist()
    ]
    data = (Path(run.FOLDER) / "notes.md").read_bytes()
    assert all(data[offset:].startswith(b"## ") for offset in offsets)


def test_broken_words_are_joined_and_numbers_dropped(store: headwater.Workspace) -> None:
    assert lost(store, "unbreak") == ["no_letter"]
    texts = [row["text"] for batch in store["unbreak"].batches(["text"]) for row in batch.to_pylist()]
    assert sum("villages" in text for text in texts) == 2
    assert not any("vil-" in text for text in texts)


def test_rules_of_the_package_and_of_the_recipe_decide(store: headwater.Workspace) -> None:
    assert lost(store, "quality") == ["calm_lines", "not_one_line"]


def test_one_of_two_copies_is_left(store: headwater.Workspace) -> None:
    assert lost(store, "dedup") == ["exact_duplicate"]
    assert store["dedup"].counts["kept"] == 1
