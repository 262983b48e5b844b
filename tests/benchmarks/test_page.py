"""The page of benchmarks: a run replaces its own section and no other."""

from pathlib import Path

from tests.benchmarks.page import table, write_section


def test_a_run_replaces_its_own_section(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    write_section("data", "headwater bench data", ["first"], page)
    write_section("dedup", "headwater bench dedup", ["other"], page)
    before = page.read_text()
    write_section("data", "headwater bench data", ["second"], page)
    text = page.read_text()
    assert "first" not in text
    assert text.replace("second", "first") == before
    assert text.index("second") < text.index("other")


def test_tables_show_figures_for_people() -> None:
    text = table(("system", "speed"), [{"system": "a|b", "speed": 1234.5}, {"system": "c"}])
    assert text.splitlines() == ["| system | speed |", "|---|---|", "| a\\|b | 1,234 |", "| c |  |"]
