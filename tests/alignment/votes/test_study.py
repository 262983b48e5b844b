"""Prompts of a study, from whatever file has some."""

import json
from pathlib import Path

import pytest

from alignment.votes.study import Study, load_study, read_prompts, save_study
from infra.errors import ConfigError, InputError
from tests.support import write_dataset


def contents(study: Study) -> list[list[str]]:
    return [[message.content for message in prompt] for prompt in read_prompts(study, {})]


def test_prompts_of_every_form_each_once(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "x"},
    ]
    rows = [
        {"messages": [*chat, {"role": "user", "content": "more"}, {"role": "assistant", "content": "y"}]},
        {"prompt": "two"},
        {"prompt": "two", "chosen": "x", "rejected": "y"},
        {"prompt": "\n\nHuman: three\n\nAssistant: x\n\nHuman: y\n\nAssistant:"},
        {"instruction": "four", "output": "x"},
        {"nothing": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lines.txt").write_text("five\n\n two \n")
    study = Study(prompts=(str(tmp_path / "rows.jsonl"), str(tmp_path / "lines.txt")))
    found = contents(study)
    assert sorted(found) == [["be brief", "one"], ["five"], ["four"], ["three"], ["two"]]
    assert found == contents(study) != contents(study.model_copy(update={"seed": 1}))
    assert len(contents(study.model_copy(update={"most_prompts": 2}))) == 2


def test_prompts_of_a_dataset(tmp_path: Path) -> None:
    sample = write_dataset(tmp_path / "sample", "sample", {"data/prompts.jsonl": b'{"prompt": "one"}\n'})
    assert len(read_prompts(Study(prompts=("dataset://sample/prompts.jsonl",)), {"sample": sample})) == 1


def test_a_file_without_prompts_says_why(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"nothing": 1}\n')
    with pytest.raises(InputError, match=r"there is no prompt .*its keys: nothing"):
        contents(Study(prompts=(str(tmp_path / "rows.jsonl"),)))


def test_a_file_of_lines_is_read_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"\xef\xbb\xbfwhy?\r\nna\xc3\xafve\r\n")
    assert sorted(contents(Study(prompts=(str(lines),)))) == [["naïve"], ["why?"]]
    for encoding in ("latin-1", "utf-16"):
        lines.write_text("naïve\n", encoding=encoding)
        with pytest.raises(InputError, match="the file is not UTF-8"):
            contents(Study(prompts=(str(lines),)))


def test_a_study_is_kept_and_edited_guidelines_stay(tmp_path: Path) -> None:
    assert load_study(tmp_path) == Study()
    save_study(tmp_path, Study(overlap=3))
    (tmp_path / "guidelines.md").write_text("mine")
    save_study(tmp_path, Study(overlap=2))
    assert load_study(tmp_path) == Study(overlap=2) and (tmp_path / "guidelines.md").read_text() == "mine"
    (tmp_path / "study.json").write_text('{"overlap": 0}')
    with pytest.raises(ConfigError, match="overlap"):
        load_study(tmp_path)
