"""The accelerator's check at toy size: the same script, on whatever is here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.check import SECTIONS, figures, write_page
from tests.support import REPOSITORY

QUICK = ("machine", "inputs", "attention", "loss", "350M plain loop", "generation 350M")


def run_check(folder: Path, *only: str) -> dict:
    out = folder / "gpu.json"
    command = ["tests/gpu/run.sh", "--toy", "--out", str(out), *(["--only", *only] if only else [])]
    # make hands its own PYTHON on, which is the interpreter that makes the environment.
    used = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False, env=used)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_quick_sections_and_their_page(tmp_path: Path) -> None:
    report = run_check(tmp_path, *QUICK)
    sections = report["sections"]
    assert tuple(sections) == QUICK
    assert sections["attention"]["heads 16/4 of 128"]["relative_errors"]["keys"] < 1e-2
    assert max(sections["loss"]["compiled"]["relative_errors"]) < 1e-2
    assert sections["350M plain loop"]["tokens_per_s"] > 0
    assert report["figures"]["tokens_per_s_64"] > report["figures"]["tokens_per_s_1"]
    write_page(report, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| 350M plain loop |" in page and "tests/gpu/run.sh" in page


def test_what_failed_or_was_not_reached_spoils_no_figure() -> None:
    sections = {
        "350M": {"tokens_per_s": 30.0, "mfu": 0.5, "seconds": 1.0},
        "350M plain loop": {"tokens_per_s": 20.0},
        "1B": {"not_reached": "out of time"},
        "125M": {"error": "exit code 1"},
    }
    assert figures(sections) == {"mfu_350m": 0.5, "tokens_per_s_350m": 30.0, "ratio_plain_loop_350m": 1.5}


@pytest.mark.slow
def test_every_section_runs(tmp_path: Path) -> None:
    report = run_check(tmp_path)
    assert [name for name, found in report["sections"].items() if "error" in found] == []
    assert list(report["sections"]) == [section.name for section in SECTIONS]
