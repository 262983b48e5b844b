"""``headwater status`` of a workspace."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import build_app


def test_an_empty_workspace_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    words = ["status", "--workspace", str(tmp_path / "w")]
    shown = CliRunner().invoke(build_app(words), words)
    assert shown.exit_code == 0, shown.output
    assert shown.output.strip() == f"{tmp_path / 'w'}: nothing is published here yet. Begin with: headwater run demo"
