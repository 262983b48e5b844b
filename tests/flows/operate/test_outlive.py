"""The process of a flow run whose worker is gone: nobody reads its output any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import pathlib, sys, time
from rich.console import Console
from flows.operate.outlive import outlive_worker
outlive_worker()
console = Console(file=sys.stderr)
console.print("begins")
sys.stdin.readline()
console.print("nobody reads this")
console.print("nor this")
print("nor this", flush=True)
pathlib.Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize("by_worker", [True, False])
def test_a_run_without_a_reader_goes_on_and_a_command_ends(tmp_path: Path, by_worker: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT__FLOW_RUN_ID"}
    if by_worker:
        environment["PREFECT__FLOW_RUN_ID"] = "00000000-0000-0000-0000-000000000000"
    run = subprocess.Popen(
        [sys.executable, "-c", WORK, str(tmp_path / "result")],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert run.stdin is not None
    assert run.stdout is not None
    assert run.stdout.readline() == b"begins\n"
    run.stdout.close()
    run.stdin.write(b"\n")
    run.stdin.close()
    assert run.wait(60) == (0 if by_worker else 1)
    assert (tmp_path / "result").exists() == by_worker
