"""What a launcher is asked to run, and the contract every launcher keeps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from infra.job import JobSpec
from infra.store.files import write_json

JOB_FILE = "job.json"
"""There from before anybody waits until the job has ended."""


@dataclass(frozen=True)
class JobHandle:
    """How to find a submitted job again."""

    kind: str
    id: str
    host: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def save(self, work_dir: Path) -> None:
        """Before anybody waits: a later driver attaches to the job by it."""
        write_json(work_dir / JOB_FILE, asdict(self))


@dataclass(frozen=True)
class JobEnd:
    """How an attempt ended. ``returncode`` is negative for a signal, None when it cannot be known."""

    returncode: int | None
    reason: str = ""
    log_tail: str = ""
    cancelled: bool = False
    """Somebody ended it at the cluster: it is not started again."""


class OnTick(Protocol):
    """Called about once a second while a job is waited for; may raise to give up. ``queued`` says what a job that does
    not run yet waits for: its clocks stand still."""

    def __call__(self, queued: str = "") -> None: ...


class Launcher(Protocol):
    """Submit, wait, terminate, attach. ``work_dir`` holds request.json, job.json, logs/, events.jsonl, result.json."""

    kind: str
    """The kind of the handles it understands."""

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle: ...

    def wait(self, handle: JobHandle, on_tick: OnTick) -> JobEnd:
        """Block until the job ends, calling ``on_tick`` about once a second."""
        ...

    def terminate(self, handle: JobHandle) -> None:
        """End every process of the job: TERM first, KILL after the grace. Returns when none is left."""
        ...

    def attach(self, handle: JobHandle) -> bool:
        """True if the job is still running and can be waited for."""
        ...

    def dump_stacks(self, handle: JobHandle) -> None:
        """Ask every rank to write the stacks of its threads to its log; best effort."""
        ...
