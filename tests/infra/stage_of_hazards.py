"""A stage whose units do what they are told: succeed, hang, crash, eat memory, raise. Workers import it by name."""

import ctypes
import itertools
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from infra.config import Config
from infra.errors import ConfigError, InputError
from infra.execution.limits import DocumentLost, time_limit
from infra.stage import Counts, ShardStage, StageContext, Step, Unit, UnitContext


class HazardConfig(Config):
    """Nothing to set."""


def no_inputs(config: HazardConfig) -> Mapping[str, str]:
    return {}


def no_units(context: StageContext) -> list[Unit]:
    return []


def first_time(context: UnitContext, unit: Unit) -> bool:
    """True for the first attempt at a unit, on whichever worker."""
    mark = Path(context.work_root) / f"seen-{unit.id}"
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def hold_the_interpreter_lock() -> None:
    """C code that never returns, never looks at signals and lets no other thread run."""
    sum(itertools.repeat(0))


def process(unit: Unit, context: UnitContext) -> Counts:
    kind = str(unit.payload.get("do", "write"))
    if kind == "sleep":
        time.sleep(float(str(unit.payload["seconds"])))
    elif kind == "killed once" and first_time(context, unit):
        (Path(context.work_root) / f"victim-{os.getpid()}").touch()
        time.sleep(60)
    elif kind == "stuck":
        hold_the_interpreter_lock()
    elif kind == "crash once" and first_time(context, unit):
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "crash":
        ctypes.string_at(0)
    elif (kind == "network once" and first_time(context, unit)) or kind == "network":
        raise ConnectionResetError("the connection was reset")
    elif kind == "input":
        raise InputError("the archive is empty", where="x.warc.gz")
    elif kind == "config":
        raise ConfigError("the threshold is too high")
    elif kind == "bug":
        raise ZeroDivisionError("a defect")
    elif kind == "memory":
        eaten = bytearray(int(str(unit.payload["bytes"])))
        eaten[::4096] = b"x" * len(eaten[::4096])
        time.sleep(float(str(unit.payload.get("seconds", 5))))
    elif kind == "documents":
        return documents(unit, context)
    elif kind == "environment":
        unit = Unit(unit.id, {"text": os.environ.get(str(unit.payload["variable"]), "")})
    with context.output(f"data/{unit.id}.txt") as path:
        path.write_text(f"{unit.id} {unit.payload.get('text', '')}\n")
    return Counts(1, 1)


def documents(unit: Unit, context: UnitContext) -> Counts:
    """Ten documents, some of which end their process."""
    lost: dict[str, int] = {}
    kept = []
    for number in range(10):
        try:
            with time_limit(0.2, document=f"document-{number}"):
                if number in unit.payload.get("stuck", ()):  # type: ignore[operator]
                    hold_the_interpreter_lock()
                if number in unit.payload.get("crash", ()):  # type: ignore[operator]
                    ctypes.string_at(0)
                if number in unit.payload.get("slow", ()):  # type: ignore[operator]
                    time.sleep(30)
                kept.append(str(number))
        except DocumentLost as error:
            lost[error.rule] = lost.get(error.rule, 0) + 1
    with context.output(f"data/{unit.id}.txt") as path:
        path.write_text(" ".join(kept))
    return Counts(10, len(kept), dict(sorted(lost.items())))


STAGE = ShardStage(
    name="hazards",
    code_version=1,
    config=HazardConfig,
    reference="tests.infra.stage_of_hazards:STAGE",
    inputs=no_inputs,
    steps=(Step("work", no_units, process),),
)
