"""Receipts of finished units: what makes a killed run resume instead of starting over.

Every worker process appends to a file of its own (``journal/<host>-<pid>-<random>.jsonl``), one receipt a line, after
its outputs are in their place. A kill can tear only the last line of one file; a torn line is ignored and its unit is
done again. Nothing is ever rewritten, so the number of small files is the number of workers, not of units.

An object cannot be appended to. In an object store a worker writes its newest receipts as one object again and again,
and begins another after ``SEGMENT`` of them: a PUT a receipt, and few objects to read when work is resumed.
"""

import json
import os
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.python_gc import python_gc_paused
from infra.stage import Counts, Receipt
from infra.store.files import (
    OutputFile,
    child_names,
    exists,
    file_sizes,
    is_local,
    read_json,
    read_many,
    write_bytes,
    write_json,
)

SEGMENT = 200


class Journal:
    """One worker's own append-only record. Begun at the first receipt."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._segment: list[bytes] = []
        self._segments = 0

    def append(self, receipt: Receipt) -> None:
        """Returns once the receipt is on the disk, or in the object store."""
        line = (json.dumps(_encode(receipt), separators=(",", ":")) + "\n").encode()
        if not is_local(self._folder):
            self._put(line)
            return
        path = Path(self._folder, f"{self._name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def _put(self, line: bytes) -> None:
        self._segment.append(line)
        write_bytes(f"{self._folder}/{self._name}-{self._segments:05}.jsonl", b"".join(self._segment))
        if len(self._segment) == SEGMENT:
            self._segment, self._segments = [], self._segments + 1


VOID = "void.json"
"""Receipts that hold no longer: names of journals, and the steps whose receipts in them are void."""


def void_receipts(folder: str | Path, step: str) -> None:
    """From now on no receipt of a step counts that any journal holds; those of journals to come do."""
    path = f"{folder}/{VOID}"
    void: dict[str, list[str]] = read_json(path) if exists(path) else {}
    for name in _journals(folder):
        void[name] = sorted({*void.get(name, ()), step})
    write_json(path, void)


def _journals(folder: str | Path) -> list[str]:
    return [name for name in child_names(folder) if name.endswith(".jsonl")]


def read_receipts(folder: str | Path) -> dict[tuple[str, str], Receipt]:
    """All receipts by (step, unit). Two receipts of one unit are equal by construction: the later read wins."""
    receipts: dict[tuple[str, str], Receipt] = {}
    names = _journals(folder)
    void: dict[str, list[str]] = read_json(f"{folder}/{VOID}") if exists(f"{folder}/{VOID}") else {}
    with python_gc_paused():
        for name, data in zip(names, read_many([f"{folder}/{name}" for name in names]), strict=True):
            for line in data.split(b"\n"):
                if not line:
                    continue
                try:
                    receipt = _decode(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    continue  # torn by a kill: the unit is done again
                if receipt.step not in void.get(name, ()):
                    receipts[receipt.step, receipt.unit] = receipt
    return receipts


def count_receipts(folder: str | Path) -> int:
    """How many units are done, as far as a glance tells: whole lines, unread. For words such as "1,204 units done"."""
    files = [f"{folder}/{name}" for name in _journals(folder)]
    return sum(data.count(b"\n") for data in read_many(files))


def receipts_with_outputs(
    receipts: Iterable[Receipt], dataset_root: str | Path, work_root: str | Path
) -> list[Receipt]:
    """The receipts whose outputs are all still there with the size they were given."""
    steps = {f"steps/{path}": size for path, size in file_sizes(f"{work_root}/steps").items()}
    sizes = {**file_sizes(dataset_root), **steps}
    return [receipt for receipt in receipts if all(sizes.get(o.path) == o.bytes for o in receipt.outputs)]


def _encode(receipt: Receipt) -> dict[str, Any]:
    counts = receipt.counts
    return {
        "unit": receipt.unit,
        "step": receipt.step,
        "outputs": [output.as_dict() for output in receipt.outputs],
        "counts": [counts.incoming, counts.kept, dict(counts.dropped), counts.failed],
        "metrics": dict(receipt.metrics),
        "seconds": receipt.seconds,
        "attempt": receipt.attempt,
    }


def _decode(raw: dict[str, Any]) -> Receipt:
    incoming, kept, dropped, failed = raw["counts"]
    return Receipt(
        unit=raw["unit"],
        step=raw["step"],
        outputs=tuple(OutputFile(**output) for output in raw["outputs"]),
        counts=Counts(incoming, kept, dropped, failed),
        metrics=raw["metrics"],
        seconds=raw["seconds"],
        attempt=raw["attempt"],
    )
