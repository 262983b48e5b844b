"""What a command prints for a program is JSON and nothing else."""

import json
import subprocess
import sys

from tests.support import REPOSITORY

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
