"""The digest of a stage's source: what changes it, and that remembering it never makes it wrong."""

from pathlib import Path

import pytest

from infra.fingerprint import source_digest
from infra.store.cache import cache_root

RULE = 'LIMIT = 3\n\n\ndef rule(text: str) -> bool:\n    """Short."""\n    return len(text) < LIMIT\n'


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rules_of_a_stage.py").write_text(RULE)
    return tmp_path / "rules_of_a_stage.py"


def digest() -> str:
    return source_digest(["rules_of_a_stage"])


def test_comments_layout_and_docstrings_do_not_count(rules: Path) -> None:
    before = digest()
    rules.write_text("# Why.\n" + RULE.replace("Short.", "Whether a text is short.").replace("LIMIT = 3", "LIMIT =  3"))
    assert digest() == before


def test_another_rule_counts_and_the_old_one_is_known_again(rules: Path) -> None:
    before = digest()
    rules.write_text(RULE.replace("3", "30"))
    assert digest() != before
    rules.write_text(RULE)
    assert digest() == before


def test_it_is_remembered_by_content(rules: Path) -> None:
    before = digest()
    assert [path.read_text() for path in (cache_root() / "sources").iterdir()] == [before]
    rules.write_text(RULE)
    assert digest() == before


def test_without_a_place_to_remember_it_is_computed(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    rules.with_name("a-file").touch()
    monkeypatch.setenv("HEADWATER_CACHE", str(rules.with_name("a-file")))
    assert digest() == before
