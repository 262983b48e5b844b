"""The record of one invocation: ``runs/<run id>/plan.json`` and ``events.jsonl``, readable with no server."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from infra.store.files import write_json
from infra.store.lease import is_alive
from infra.store.manifest import Provenance
from infra.store.store import Store

RECORDED_PACKAGES = (
    "headwater", "prefect", "datasketch", "fasttext-community", "pyarrow", "datasets", "sentencepiece", "torch",
    "deepspeed", "trafilatura", "fastwarc", "resiliparse", "numpy",
)  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """Where a run writes what it does."""

    id: str
    root: Path

    @classmethod
    def start(cls, store: Store, recipe: str) -> "RunRecord":
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        run = f"{recipe}-{stamp}-{secrets.token_hex(2)}"
        record = cls(run, store.run_root(run))
        write_json(
            record.root / "run.json",
            {
                "id": run,
                "recipe": recipe,
                "argv": sys.argv,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "process_started": psutil.Process().create_time(),
                "started": time.time(),
            },
        )
        return record

    def save_plan(self, plan: Any) -> None:
        write_json(self.root / "plan.json", plan)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event; a torn last line after a kill is ignored by readers."""
        line = json.dumps({"time": time.time(), "type": kind, **fields}, default=str)
        with (self.root / "events.jsonl").open("a") as stream:
            stream.write(line + "\n")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a run or a job, without a torn last line."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                yield json.loads(line)
            except ValueError:
                continue  # torn by a kill


def list_runs(store: Store) -> list[dict[str, Any]]:
    """Every run with its state (running, completed, failed, interrupted), newest first."""
    runs = []
    for path in (store.home / "runs").glob("*/run.json"):
        run = json.loads(path.read_text())
        stages: dict[str, dict[str, Any]] = {}
        state = "running"
        for event in read_events(path.parent / "events.jsonl"):
            if event["type"] == "run_ended":
                state = event["state"]
                run["ended"] = event["time"]
            elif "stage" in event:
                stages.setdefault(event["stage"], {}).update(event)
        alive = run["host"] == socket.gethostname() and is_alive(run["pid"], run["process_started"])
        if state == "running" and not alive:
            state = "interrupted"
        runs.append({**run, "state": state, "stages": stages})
    return sorted(runs, key=lambda run: run["started"], reverse=True)


def provenance(run: str, started: float) -> Provenance:
    """With what and where a dataset is being made."""
    commit, dirty = _git_state()
    return Provenance(
        git_commit=commit,
        git_dirty=dirty,
        argv=sys.argv,
        host=socket.gethostname(),
        python=sys.version.split()[0],
        packages=_versions(RECORDED_PACKAGES),
        run=run,
        started=started,
        ended=time.time(),
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _git_state() -> tuple[str, bool]:
    """Commit and dirtiness of the checkout this code runs from; empty where it is not a checkout."""
    folder = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
        return result.stdout.strip() if result.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "", False
