"""A job: what is to be started, and the conversation of its two ends: the runner writes a request, the job answers.

    work/<name>/<fp>/request.json    what to do: configuration, input datasets, where outputs go   (runner writes)
    work/<name>/<fp>/events.jsonl    one JSON object a line, appended by rank 0: progress, metrics  (job writes)
    work/<name>/<fp>/checkpoints/    the job's own checkpoints, to resume from after any kill        (job writes)
    work/<name>/<fp>/result.json     outputs and figures, written last and atomically               (job writes)

Only the result counts as success. Event types the runner understands: ``progress`` (``done``, ``total``, and any
figures such as ``loss``), ``phase`` (``name``; announces long silence such as an evaluation), ``warning`` (``message``).
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.store.dataset import Dataset
from infra.store.files import OutputFile, describe_file, write_json


@dataclass(frozen=True)
class JobSpec:
    """A process group: ``nodes × ranks`` processes running ``python -m module --request FILE``."""

    module: str
    ranks: int = 1
    nodes: int = 1
    threads_per_rank: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    time_limit_s: int | None = None
    """Wall-clock limit of one attempt, in seconds; None: no limit."""
    stall_limit_s: int = 1800
    """No new event for this long: the ranks' stacks are dumped and the group is ended and restarted."""
    max_restarts: int = 3
    float8: bool = False
    """Its ranks multiply in float8, which not every GPU does."""


@dataclass(frozen=True)
class JobRequest:
    """What a job reads at its start. Every path is local to the machine the job runs on."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: Mapping[str, Dataset]
    dataset_root: Path
    work_dir: Path

    @property
    def checkpoint_dir(self) -> Path:
        return self.work_dir / "checkpoints"

    @property
    def data_dir(self) -> Path:
        return self.dataset_root / "data"


@dataclass
class JobResult:
    """What a job hands back. ``outputs`` and ``warnings`` become the manifest's; ``stats`` are shown in reports."""

    outputs: list[OutputFile] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def write_request(request: JobRequest) -> Path:
    """Write ``request.json`` to the work folder; returns its path."""
    path = request.work_dir / "request.json"
    write_json(
        path,
        {
            "stage": request.stage,
            "fingerprint": request.fingerprint,
            "config": request.config,
            "inputs": {role: {"root": str(dataset.root)} for role, dataset in request.inputs.items()},
            "dataset_root": str(request.dataset_root),
            "work_dir": str(request.work_dir),
        },
    )
    return path


def load_request(path: Path) -> JobRequest:
    """Read a request and open its input datasets. ``config`` is plain data: validate it with the stage's model."""
    raw = json.loads(path.read_text())
    return JobRequest(
        stage=raw["stage"],
        fingerprint=raw["fingerprint"],
        config=raw["config"],
        inputs={role: Dataset.open(entry["root"]) for role, entry in raw["inputs"].items()},
        dataset_root=Path(raw["dataset_root"]),
        work_dir=Path(raw["work_dir"]),
    )


def emit(request: JobRequest, kind: str, **fields: Any) -> None:
    """Append one event (rank 0 only). A torn last line after a kill is tolerated by the readers."""
    line = json.dumps({"type": kind, "time": time.time(), **fields}, allow_nan=True)
    with (request.work_dir / "events.jsonl").open("a") as stream:
        stream.write(line + "\n")


def finish(
    request: JobRequest,
    outputs: Mapping[str, bool],
    stats: Mapping[str, Any],
    rows: Mapping[str, int] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Answer the request (rank 0 only, last of all).

    ``outputs`` maps each file's path below the dataset root (``data/model/model.safetensors``) to whether it enters
    the output digest: weights and tables do, files that carry time, host or optimizer state do not. ``warnings``: a
    sentence each of what a user of the dataset must know.
    """
    rows = rows or {}
    unknown: list[str] = []
    figures = _finite(dict(stats), "", unknown)
    if unknown:
        warnings = [*warnings, f"not finite, and so not on record: {', '.join(unknown)}"]
    described = [
        describe_file(request.dataset_root, path, rows=rows.get(path), digested=digested)
        for path, digested in sorted(outputs.items())
    ]
    write_json(
        request.work_dir / "result.json",
        {"outputs": [output.as_dict() for output in described], "stats": figures, "warnings": list(warnings)},
    )


def _finite(value: Any, name: str, unknown: list[str]) -> Any:
    """Figures as JSON can hold them: None for those that are not finite, whose names are noted."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item, f"{name}.{key}".lstrip("."), unknown) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{name}[{index}]", unknown) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        unknown.append(name)
        return None
    return value


def load_result(work_dir: Path) -> JobResult | None:
    """The job's result, or None while there is none."""
    path = work_dir / "result.json"
    if not path.exists():
        return None
    raw = json.loads(path.read_text())
    return JobResult([OutputFile(**entry) for entry in raw["outputs"]], raw["stats"], raw.get("warnings", []))
