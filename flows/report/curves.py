"""The course of a training as numbers: of a published dataset, or of a job that runs, as far as it has come.

A job writes its figures where its dataset will be, a line a step, and goes back in that file when it goes back to a checkpoint.
Whoever looks on asks for what came after a step: that is read from the end of the file.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.report.learning import METRICS_FILE, thinned
from infra.errors import InputError, NotFound
from infra.runs import read_events
from infra.store.dataset import Dataset
from infra.store.lease import lease_holder
from infra.store.store import Store
from infra.work import BESIDE

MOST_POINTS = 2000
BLOCK = 1 << 16
MOST_TAIL = 64 << 20
_ADDRESS = re.compile(r"(?P<name>[A-Za-z0-9][\w-]*)(?:/(?P<fingerprint>[0-9a-f]{12})|@(?P<label>[A-Za-z0-9][\w.-]*))?")
_AXES = ("step", "held")
Row = dict[str, Any]


@dataclass(frozen=True)
class _Course:
    """Where a training's figures are."""

    name: str
    fingerprint: str
    path: Path
    running: bool
    total: int | None


def curves(store: Store, address: str, since: int = 0) -> Row:
    """``{series: {name: [[step, value], …]}, running, total_steps, …}`` of ``NAME``, ``NAME@LABEL`` or ``NAME/FINGERPRINT``.

    ``since`` asks for the steps after that one; from the beginning, a long training is thinned to ``MOST_POINTS``. A value
    that is no number any more (a loss that diverged) is null. Raises NotFound where no such training is known.
    """
    course = _course(store, address)
    lines = _after(course.path, since) if since > 0 else list(_lines(b"".join(thinned(course.path, MOST_POINTS))))
    series: dict[str, list[list[float | None]]] = {}
    last = since
    for line in lines:
        last = max(last, line["step"])
        for name, value in line.items():
            if name not in _AXES and isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(name, []).append([line["step"], value if math.isfinite(value) else None])
    held = [line["step"] for line in lines if line.get("held")]
    return {
        "dataset": f"{course.name}/{course.fingerprint}",
        "series": series,
        "not_applied": held,
        "last_step": last,
        "running": course.running,
        "total_steps": course.total,
    }


def has_curves(dataset: Dataset) -> bool:
    """Whether a dataset tells how its training went."""
    return any(output.path == METRICS_FILE for output in dataset.manifest.outputs)


def _course(store: Store, address: str) -> _Course:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(
            f"{address[:100]!r} names no dataset", where="dataset", remedy="Write NAME, NAME@LABEL or NAME/FINGERPRINT."
        )
    name = match["name"]
    fingerprint = match["fingerprint"] or store.read_ref(name, match["label"] or "latest") or ""
    if not re.fullmatch(r"[0-9a-f]{12}", fingerprint):
        raise NotFound(f"there is no dataset {address!r}", where=store.address)
    found = _running(store, name, fingerprint) or _published(store, name, fingerprint)
    if found is None:
        raise NotFound(f"{address} has no curves: it is no training, or its figures are not here", where=store.address)
    return found


def _running(store: Store, name: str, fingerprint: str) -> _Course | None:
    """A job that holds the lease of its dataset and has begun to write figures on this machine."""
    if lease_holder(store.work_url(name, fingerprint)) is None:
        return None
    home = store.work_root(name, fingerprint)
    places = ((home / BESIDE / "dataset", home / BESIDE), (store.dataset_root(name, fingerprint), home))
    for root, work in places:
        path, events = root / METRICS_FILE, work / "events.jsonl"
        if path.is_file() and events.is_file():
            totals = [event["total"] for event in read_events(events) if event.get("type") == "progress"]
            return _Course(name, fingerprint, path, True, totals[-1] if totals else None)
    return None


def _published(store: Store, name: str, fingerprint: str) -> _Course | None:
    dataset = store.find(name, fingerprint)
    if dataset is None or not has_curves(dataset):
        return None
    path = dataset.local(METRICS_FILE)
    last = max((line["step"] for line in _lines(_tail(path, BLOCK))), default=None)
    return _Course(name, fingerprint, path, False, last)


# ---- lines ----------------------------------------------------------------------------------------------------------


def _after(path: Path, since: int) -> list[Row]:
    """The lines behind a step, from the end of the file."""
    size = BLOCK
    while True:
        lines = list(_lines(_tail(path, size)))
        if size >= min(path.stat().st_size, MOST_TAIL) or (lines and lines[0]["step"] <= since):
            return [line for line in lines if line["step"] > since]
        size *= 4


def _tail(path: Path, size: int) -> bytes:
    """The last bytes of a file, from the beginning of a line on."""
    with path.open("rb") as stream:
        start = max(0, stream.seek(0, 2) - size)
        stream.seek(start)
        data = stream.read(size)
    return data if start == 0 else data.partition(b"\n")[2]


def _lines(data: bytes) -> Iterator[Row]:
    """Lines that say a step; one that is being written is left for the next time."""
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row
