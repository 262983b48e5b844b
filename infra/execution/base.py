"""What a worker does with one unit, and what every executor promises.

* A ``UnitTask`` is all a worker must know about a step; it is plain data, so that any process can be handed one.
* ``open_task`` imports the stage by name and opens its inputs, once for each worker process.
* ``run_unit`` works in a private scratch folder and writes its receipt to the worker's journal *before* it returns:
  from then on the unit is done, whatever happens to the worker, the driver or the machine.
* An ``Executor`` yields one outcome a unit, in the order they end. A unit that fails is an outcome; a failure that
  every further unit would share (wrong configuration, a full disk, a lost lease) is raised.
"""

import shutil
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from infra.config import Json
from infra.errors import HeadwaterError, InputError, disk_full
from infra.execution.limits import UnitGuard, guarded_unit
from infra.extensions import load
from infra.journal import Journal
from infra.stage import Receipt, ShardStage, Step, Unit, UnitContext, checked_counts
from infra.store.dataset import Dataset


@dataclass(frozen=True)
class UnitTask:
    """One step of one stage, as plain data. ``reference`` is the stage's address, ``module:ATTRIBUTE``."""

    reference: str
    step: str
    config: Mapping[str, Json]
    inputs: Mapping[str, str]
    dataset_root: str
    work_root: str
    scratch_root: str
    journal: str

    @property
    def module(self) -> str:
        return self.reference.partition(":")[0]


@dataclass(frozen=True)
class UnitOutcome:
    """How a unit ended: with a receipt, or for good with an error."""

    unit: Unit
    receipt: Receipt | None
    error: str = ""
    attempts: int = 1


class Executor(Protocol):
    """Runs a step's units somewhere. Closing the iterator ends every worker."""

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]: ...


@dataclass
class OpenTask:
    """A task opened in a worker process: its stage imported, its configuration validated, its inputs open."""

    task: UnitTask
    step: Step
    config: Any
    inputs: Mapping[str, Dataset]
    journal: Journal


def open_task(task: UnitTask) -> OpenTask:
    """In a worker: import the stage by name, validate its configuration, open its inputs. Raises what any of them does."""
    stage = load(task.reference, "use", ShardStage)
    return OpenTask(
        task,
        next(step for step in stage.steps if step.name == task.step),
        stage.config.model_validate(task.config),
        {role: Dataset.open(root) for role, root in task.inputs.items()},
        Journal(task.journal),
    )


def run_unit(opened: OpenTask, unit: Unit, attempt: int = 1, guard: UnitGuard | None = None) -> Receipt:
    """Process one unit and record it."""
    task = opened.task
    scratch = Path(task.scratch_root) / f"{unit.id}-{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)
    context = UnitContext(opened.config, opened.inputs, task.dataset_root, task.work_root, scratch, task.step)
    began = time.monotonic()
    try:
        with guarded_unit(guard or UnitGuard()):
            counts = opened.step.process(unit, context)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    receipt = Receipt(
        unit.id,
        task.step,
        tuple(context.outputs),
        checked_counts(f"{task.reference}, step {task.step}", counts),
        dict(context.metrics),
        round(time.monotonic() - began, 3),
        attempt,
    )
    opened.journal.append(receipt)
    return receipt


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed, in words that survive the trip between processes."""

    text: str
    transient: bool = False
    """Worth another attempt: the network or a remote store."""
    fatal: HeadwaterError | None = None
    """Every further unit would fail the same way."""
    memory: bool = False


PERMANENT_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
REMOTE_LIBRARIES = frozenset({"aiohttp", "botocore", "gcsfs", "http", "requests", "urllib3"})


def describe_failure(error: Exception) -> Failure:
    """Classify an exception of a unit."""
    if isinstance(error, InputError):
        return Failure(str(error))
    if isinstance(error, HeadwaterError):
        return Failure(str(error), fatal=error)
    full = disk_full(error)
    if full is not None:
        return Failure(str(full), fatal=full)
    if isinstance(error, MemoryError):
        return Failure("the worker ran out of memory", memory=True)
    text = f"{type(error).__name__}: {error}{_place(error)}"
    remote = type(error).__module__.partition(".")[0] in REMOTE_LIBRARIES
    transient = remote or (isinstance(error, OSError) and not isinstance(error, PERMANENT_OS_ERRORS))
    return Failure(text, transient=transient)


def _place(error: Exception) -> str:
    """File and line of the innermost frame: enough to find a defect from a manifest."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
