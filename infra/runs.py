"""The record of one invocation: ``runs/<run id>/plan.json`` and ``events.jsonl``, readable with no server.

In an object store, where nothing can be appended to, each process that takes part writes its events as an object of its
own, ``events/<host>-<pid>-<random>.jsonl``; readers merge them by time.
"""

import json
import math
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from infra.store.files import child_names, exists, is_local, json_lines, read_json, read_many, write_bytes, write_json
from infra.store.lease import is_alive, process_host
from infra.store.manifest import Provenance
from infra.store.store import Store

RECORDED_PACKAGES = (
    "headwater", "prefect", "datasketch", "fasttext-community", "pyarrow", "datasets", "sentencepiece", "torch",
    "deepspeed", "trafilatura", "fastwarc", "resiliparse", "numpy",
)  # fmt: skip

RUN_NAME = re.compile(r"(?P<label>[\w.-]+)-(?P<time>\d{8}-\d{6})-[0-9a-f]+")
PROGRESS = "progress.json"
PROGRESS_EVERY_S = 5.0
SILENT_S = 300.0
"""A run on another machine that has told nothing for so long is taken for interrupted."""


@dataclass(frozen=True)
class RunRecord:
    """Where a run writes what it does."""

    id: str
    root: str
    _writer: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    _lines: list[bytes] = field(default_factory=list, compare=False)
    """What this process has written so far, for a store that cannot append."""

    @classmethod
    def start(cls, store: Store, recipe: str) -> "RunRecord":
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        run = f"{recipe}-{stamp}-{secrets.token_hex(2)}"
        record = cls(run, store.run_url(run))
        write_json(
            f"{record.root}/run.json",
            {
                "id": run,
                "recipe": recipe,
                "argv": sys.argv,
                "host": process_host(),
                "pid": os.getpid(),
                "process_started": psutil.Process().create_time(),
                "started": time.time(),
            },
        )
        return record

    def save_plan(self, plan: Any) -> None:
        write_json(f"{self.root}/plan.json", plan)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event; a torn last line after a kill is ignored by readers."""
        line = (json.dumps({"time": time.time(), "type": kind, **fields}, default=str) + "\n").encode()
        if is_local(self.root):
            with Path(self.root, "events.jsonl").open("ab") as stream:
                stream.write(line)
        else:
            self._lines.append(line)
            write_bytes(f"{self.root}/events/{self._writer}.jsonl", b"".join(self._lines))


@dataclass
class ProgressNote:
    """A reporter that leaves how far a run is in ``progress.json`` of its record, for whoever asks from elsewhere."""

    record: RunRecord
    every_s: float = PROGRESS_EVERY_S
    _last: float = float("-inf")

    def stage_started(self, stage: str, action: str) -> None:
        self._write(stage, 0.0, 0.0, {}, None)

    def progress(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        if time.monotonic() - self._last >= self.every_s:
            self._write(stage, done, total, figures, eta)

    def message(self, stage: str, text: str) -> None:
        return

    def stage_ended(self, stage: str, text: str) -> None:
        return

    def _write(self, stage: str, done: float, total: float, figures: Mapping[str, Any], eta: float | None) -> None:
        self._last = time.monotonic()
        numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float, str))}
        shown = {
            name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in numbers.items()
        }
        state = {"time": time.time(), "stage": stage, "done": done, "total": total, "eta": eta, "figures": shown}
        write_json(f"{self.record.root}/{PROGRESS}", state)


def read_progress(root: str) -> dict[str, Any] | None:
    """How far a run said it was; None where it has not said."""
    try:
        return dict(read_json(f"{root}/{PROGRESS}"))
    except (FileNotFoundError, ValueError):
        return None


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a job, or of a run in a local workspace, without a torn last line."""
    if path.exists():
        yield from json_lines(path.read_bytes())


def run_events(root: str) -> Iterator[dict[str, Any]]:
    """The events of a run, in the order in which they happened."""
    if is_local(root):
        yield from read_events(Path(root, "events.jsonl"))
        return
    files = [f"{root}/events/{name}" for name in child_names(f"{root}/events")]
    yield from sorted(
        (event for data in read_many(files) for event in json_lines(data)), key=lambda event: event["time"]
    )


def list_runs(store: Store, newest: int | None = None) -> list[dict[str, Any]]:
    """Every run with its state (running, completed, failed, interrupted, or unreadable), newest first.

    ``newest``: only so many, by the time in their names.
    """
    runs = []
    names = child_names(f"{store.address}/runs")
    if newest is not None:
        times = {name: match["time"] for name in names if (match := RUN_NAME.fullmatch(name))}
        names = sorted(times, key=lambda name: times[name], reverse=True)[:newest]
    for name in names:
        root = store.run_url(name)
        if not exists(f"{root}/run.json"):
            continue
        try:
            runs.append(_described(root, read_json(f"{root}/run.json")))
        except (ValueError, KeyError, TypeError):  # a record that a full disk or a hand has spoilt: the others go on
            runs.append({"id": name, "recipe": "", "host": "", "started": 0.0, "state": "unreadable", "stages": {}})
    return sorted(runs, key=lambda run: run["started"], reverse=True)


def _described(root: str, run: dict[str, Any]) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = {}
    state = "running"
    for event in run_events(root):
        if event["type"] == "run_ended":
            state = event["state"]
            run["ended"] = event["time"]
            run["error"] = event.get("error")
        elif "stage" in event:
            stages.setdefault(event["stage"], {}).update(event)
    if state == "running" and not _still_runs(root, run):
        state = "interrupted"
    return {**run, "state": state, "stages": stages}


def _still_runs(root: str, run: Mapping[str, Any]) -> bool:
    """Whether a run that has not ended goes on: its process here, or lately heard of from elsewhere."""
    if run["host"] == process_host():
        return is_alive(run["pid"], run["process_started"])
    progress = read_progress(root)
    return progress is not None and time.time() - progress["time"] < SILENT_S


def provenance(run: str, started: float, recipe: str = "") -> Provenance:
    """With what and where a dataset is being made."""
    commit, dirty = _git_state()
    return Provenance(
        git_commit=commit,
        git_dirty=dirty,
        argv=sys.argv,
        host=socket.gethostname(),
        python=sys.version.split()[0],
        packages={package: _version(package) for package in RECORDED_PACKAGES},
        run=run,
        recipe=recipe,
        started=started,
        ended=time.time(),
    )


@cache
def _version(package: str) -> str:
    """What is installed when the process first asks. To look takes five milliseconds."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


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
