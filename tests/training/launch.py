"""Start a test's rank program as a process group and read its answer."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def rank_command(module: str, ranks: int, *arguments: str) -> list[str]:
    """As the launcher does it: torchrun looks after the ranks."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={_free_port()}"]
    return [sys.executable, *launcher, "-m", module, *arguments]


def rank_environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCHDYNAMO_DISABLE": "1",
    }


def run_ranks(module: str, ranks: int, *arguments: str, timeout: float = 240) -> Any:
    """The JSON that a program prints after ``ANSWER``. Without torchrun, whose own start takes longer than most answers."""
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=REPOSITORY,
                env=rank_environment() | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=out,
                stderr=err,
            )
            for rank in range(ranks)
        ]
        codes = _codes(processes, timeout)
        out.seek(0)
        err.seek(0)
        printed, complaints = out.read(), err.read()
    answers = [line for line in printed.splitlines() if line.startswith("ANSWER ")]
    assert answers and not any(codes), f"exit {codes}\n{printed[-2000:]}\n{complaints[-4000:]}"
    return json.loads(answers[-1].removeprefix("ANSWER "))


def _codes(processes: list[subprocess.Popen[bytes]], timeout: float) -> list[int]:
    """How all ended; one that fails ends the others, which would wait for it, and so does the time limit."""
    deadline = time.monotonic() + timeout
    while None in (codes := [process.poll() for process in processes]):
        if any(codes) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
    return [process.wait() for process in processes]


def _free_port() -> int:
    """Below those that the kernel gives to connections: one of them may be taken before the first rank listens, seconds later."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
