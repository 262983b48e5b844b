"""The source of a stage: which files it is made of, what changes them, and that remembering them never makes it wrong."""

from pathlib import Path

import pytest

from infra.stage_source import Import, changed_files, source_of, stage_source
from infra.store.cache import cache_root
from tests.infra.toy import NUMBERS, NumbersConfig

RULE = 'LIMIT = 3\n\n\ndef rule(text: str) -> bool:\n    """Short."""\n    return len(text) < LIMIT\n'
FILES = {
    "plugin/__init__.py": "from plugin.rules import rule\nfrom plugin.unused import nothing\n",
    "plugin/rules.py": RULE,
    "plugin/unused.py": "nothing = 0\n",
    "plugin/types.py": "Number = int\n",
    "plugin/deep/late.py": "import json\nimport infra.progress\nfrom ..rules import LIMIT\n",
    "plugin/stage.py": "from typing import TYPE_CHECKING\n\nfrom plugin import rule\n\nif TYPE_CHECKING:\n"
    "    from plugin.types import Number\n\n\ndef process() -> None:\n    from .deep import late\n",
}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "plugin"


def source() -> dict[str, str]:
    return source_of(Import("plugin.stage", "STAGE"))


def test_imports_are_followed_to_where_a_name_is_defined(plugin: Path) -> None:
    assert list(source()) == ["plugin/deep/late.py", "plugin/rules.py", "plugin/stage.py"]
    assert list(source_of(Import("plugin"))) == ["plugin/__init__.py", "plugin/rules.py", "plugin/unused.py"]


def test_comments_layout_and_docstrings_do_not_count(plugin: Path) -> None:
    before = source()
    (plugin / "rules.py").write_text(
        "# Why.\n" + RULE.replace("Short.", "If short.").replace("LIMIT = 3", "LIMIT =  3")
    )
    assert source() == before


def test_another_rule_counts_and_is_named_and_the_old_one_is_known_again(plugin: Path) -> None:
    before = source()
    (plugin / "rules.py").write_text(RULE.replace("3", "30"))
    assert changed_files(before, source()) == "plugin/rules.py"
    (plugin / "rules.py").write_text(RULE)
    assert source() == before


def test_what_a_file_says_is_remembered_by_its_contents(plugin: Path) -> None:
    source()
    remembered = {path: path.read_bytes() for path in (cache_root() / "sources").iterdir()}
    assert len(remembered) == 4  # the files above, and the package that hands on
    (plugin / "stage.py").write_text(FILES["plugin/stage.py"] + "\n")
    source()
    assert len(list((cache_root() / "sources").iterdir())) == 5
    torn = next(iter(remembered))
    torn.write_bytes(b'["0')
    (plugin / "rules.py").write_text(RULE)
    assert source()["plugin/rules.py"]


def test_without_a_place_to_remember_it_is_found_all_the_same(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugin / "a-file").touch()
    monkeypatch.setenv("HEADWATER_CACHE", str(plugin / "a-file"))
    (plugin / "rules.py").write_text(RULE + "# never seen before\n")
    assert "plugin/rules.py" in source()


def test_many_changed_files_are_counted() -> None:
    assert (
        changed_files({"a": "1", "b": "1", "c": "1", "d": "1", "e": "1"}, {"e": "1", "f": "1"}) == "a, b, c and 2 more"
    )


def test_a_stage_of_a_package_of_its_own_is_made_of_that(plugin: Path) -> None:
    assert list(stage_source(NUMBERS, NumbersConfig())) == ["tests/infra/toy.py"]


@pytest.mark.parametrize(
    ("stage", "made_of", "not_of"),
    [
        (
            "pretrain",
            {"training/validation.py", "training/loss.py", "training/muon.py"},
            {"pipeline/tokenizer/train.py"},
        ),
        ("sft", {"training/loss.py", "training/optimizer.py"}, {"training/evaluate.py"}),
        ("dpo", {"alignment/losses.py", "training/optimizer.py"}, {"alignment/ppo.py"}),
        ("quality", {"pipeline/quality/rules.py", "pipeline/ledger.py"}, {"pipeline/attributes.py"}),
        ("dedup", {"pipeline/dedup/minhash.py", "pipeline/words.py"}, {"pipeline/dedup/nothing.py"}),
    ],
)
def test_what_our_own_stages_are_made_of(stage: str, made_of: set[str], not_of: set[str]) -> None:
    from flows.stages import load_stage

    found = load_stage(stage)
    files = stage_source(found, found.config()).keys()
    assert made_of <= files
    assert not not_of & files
    assert not any(name.startswith("infra/") for name in files)
