"""A step's list of units, frozen at the first attempt so that a resumed run works through the same one.

``plan/<step>.json`` is one JSON array with a unit a line, sorted by id: ninety thousand units are written and read in a second,
and ``grep`` finds one. Beside it ``plan/<step>.basis`` holds the digest of what the step was planned upon: the receipts of
the steps before it. If a unit that was missing there is done after all, the list no longer holds, nor what was done by it.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from infra.errors import HeadwaterError
from infra.python_gc import python_gc_paused
from infra.stage import Receipt, StageContext, Step, Unit
from infra.store.files import exists, read_bytes, read_json, remove_file, write_bytes


def basis_of(receipts: Mapping[str, Sequence[Receipt]]) -> str:
    """The digest of what the steps so far have done."""
    digest = hashlib.sha256()
    for step, done in receipts.items():
        for receipt in sorted(done, key=lambda receipt: receipt.unit):
            digest.update(f"{step} {receipt.unit}".encode())
            for output in receipt.outputs:
                digest.update(f" {output.path} {output.digest}".encode())
    return digest.hexdigest()


def outdated(step: Step, context: StageContext) -> bool:
    """Whether the step's list was made upon something else."""
    path = f"{context.work_root}/plan/{step.name}.basis"
    return exists(path) and read_bytes(path).decode() != basis_of(context.receipts)


def forget(step: Step, context: StageContext) -> None:
    """Have the step's list made anew when it is asked for next."""
    remove_file(f"{context.work_root}/plan/{step.name}.json")
    remove_file(f"{context.work_root}/plan/{step.name}.basis")


def planned_units(step: Step, context: StageContext) -> list[Unit]:
    """The step's units as they were frozen, or planned and frozen now."""
    path = f"{context.work_root}/plan/{step.name}.json"
    with python_gc_paused():
        if exists(path):
            return [Unit(**entry | {"files": tuple(entry.get("files", ()))}) for entry in read_json(path)]
        units = sorted(step.units(context), key=lambda unit: unit.id)
        _refuse_duplicates(step, units)
        write_bytes(f"{context.work_root}/plan/{step.name}.basis", basis_of(context.receipts).encode())
        write_bytes(path, _array(units))
        return units


def _array(units: Iterable[Unit]) -> bytes:
    # With an indent json.dumps falls back to its encoder in Python, ten times slower.
    encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode
    lines = (
        encode({item.name: getattr(unit, item.name) for item in fields(Unit)} | {"payload": dict(unit.payload)})
        for unit in units
    )
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def _refuse_duplicates(step: Step, units: list[Unit]) -> None:
    for one, two in itertools.pairwise(units):
        if one.id == two.id:
            raise HeadwaterError(
                f"step {step.name!r} plans unit {one.id} twice",
                remedy="The same input is listed twice: remove the duplicate from the recipe.",
            )
