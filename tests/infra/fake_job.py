"""A job for the launcher's tests: two ranks without torch that do what ``config`` tells them.

Rank 0 counts steps and leaves its count as a checkpoint, so that an attempt goes on where the last one ended.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.errors import ConfigError
from infra.job import JobRequest, emit, finish
from infra.job_main import Preempted, job_main


def run(request: JobRequest) -> None:
    behaviour, rank = request.config, os.environ["RANK"]
    if behaviour.get("refuse"):
        raise ConfigError("the batch is larger than the data", remedy="Lower batch.")
    if rank != "0":
        time.sleep(0.5)
        return
    checkpoint = request.checkpoint_dir / "step"
    checkpoint.parent.mkdir(exist_ok=True)
    start = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for step in range(start, 10):
        emit(request, "progress", done=step, total=10)
        act(behaviour.get(str(step)), request, step)
        checkpoint.write_text(str(step + 1))
    output = request.data_dir / "model.txt"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("weights")
    finish(request, {"data/model.txt": True}, {"steps": 10})


def act(what: str | None, request: JobRequest, step: int) -> None:
    once = request.work_dir / f"once-{step}"
    if what is None or (what.endswith("once") and once.exists()):
        return
    once.touch()
    if what == "abort at the end":
        atexit.register(os.abort)
    elif what.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what.startswith("stall"):
        time.sleep(600)
    elif what.startswith("preempt"):
        (request.checkpoint_dir / "step").write_text(str(step))
        raise Preempted
    elif what == "memory":
        raise MemoryError("cannot hold the activations")
    elif what == "crash":
        raise ZeroDivisionError("a defect in the model")
    elif what == "linger":
        stubborn(request.work_dir)
        time.sleep(600)


def stubborn(folder: Path) -> None:
    """Descendants in sessions of their own that ignore TERM, as ranks and their helpers may."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    for number in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        (folder / f"child-{number}").write_text(str(child.pid))
    (folder / "lingering").touch()


if __name__ == "__main__":
    job_main(run)
