"""Receipts of finished units: what makes a killed run resume instead of starting over.

Every worker process appends to a file of its own (``journal/<host>-<pid>-<random>.jsonl``), one receipt a line, after
its outputs are in their place. A kill can tear only the last line of one file; a torn line is ignored and its unit is
done again. Nothing is ever rewritten, so the number of small files is the number of workers, not of units.
"""

import json
import os
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.stage import Counts, Receipt
from infra.store.files import OutputFile


class Journal:
    """One worker's own append-only file. Opened at the first receipt."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"

    def append(self, receipt: Receipt) -> None:
        """Returns once the receipt is on the disk."""
        line = (json.dumps(_encode(receipt), separators=(",", ":")) + "\n").encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def read_receipts(folder: Path) -> dict[tuple[str, str], Receipt]:
    """All receipts by (step, unit). Two receipts of one unit are equal by construction: the later read wins."""
    receipts: dict[tuple[str, str], Receipt] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if not line:
                continue
            try:
                receipt = _decode(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # torn by a kill: the unit is done again
            receipts[receipt.step, receipt.unit] = receipt
    return receipts


def receipts_with_outputs(receipts: Iterable[Receipt], dataset_root: Path, work_root: Path) -> list[Receipt]:
    """The receipts whose outputs are all still there with the size they were given."""
    return [receipt for receipt in receipts if all(_present(o, dataset_root, work_root) for o in receipt.outputs)]


def _present(output: OutputFile, dataset_root: Path, work_root: Path) -> bool:
    root = work_root if output.path.startswith("steps/") else dataset_root
    try:
        return (root / output.path).stat().st_size == output.bytes
    except FileNotFoundError:
        return False


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
