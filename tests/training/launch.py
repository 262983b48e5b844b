"""Start a test's rank program as a process group, as the launcher does, and read its answer."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def rank_command(module: str, ranks: int, *arguments: str) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={ranks}",
        f"--master_port={port}",
    ]
    return [sys.executable, *launcher, "-m", module, *arguments]


def rank_environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCHDYNAMO_DISABLE": "1",
    }


def run_ranks(module: str, ranks: int, *arguments: str, timeout: float = 240) -> Any:
    """The JSON a program prints after ``ANSWER``."""
    done = subprocess.run(
        rank_command(module, ranks, *arguments),
        cwd=REPOSITORY,
        env=rank_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert done.returncode == 0 and answers, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return json.loads(answers[-1].removeprefix("ANSWER "))
