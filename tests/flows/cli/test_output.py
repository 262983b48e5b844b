"""What a command prints: for a program JSON and nothing else, for a person also what to do next."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from flows.cli.summary import print_summary
from tests.support import REPOSITORY, write_dataset

NOISY = """
import os, subprocess, sys
from flows.cli.options import own_stdout, print_json
stream = own_stdout()
print("a library")
subprocess.run(["echo", "a child"])
os.write(1, b"code in C\\n")
print_json({"run": "é"}, stream)
print("and afterwards")
"""


def test_stdout_is_the_result_whatever_else_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISY], cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True
    )
    assert json.loads(done.stdout) == {"run": "é"}
    for words in ("a library", "a child", "code in C", "and afterwards"):
        assert words in done.stderr


def test_a_run_ends_by_saying_how_to_open_it(tmp_path: Path) -> None:
    datasets = {name: write_dataset(tmp_path / name, name, {"data/x": b""}) for name in ("sft", "export")}
    out = Console(file=io.StringIO(), width=200)
    print_summary(SimpleNamespace(datasets=datasets, outcomes=[]), out, "my work")  # type: ignore[arg-type]
    assert out.file.getvalue().splitlines()[-1] == "Open     headwater serve export sft --workspace 'my work'"
