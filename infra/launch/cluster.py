"""What the launchers of other machines share: the line that starts a node, and how a job is watched and ended.

A job on a cluster goes on while no driver is there. Its nodes and its launcher talk through the shared work folder
(``infra.launch.node``); beside that a launcher looks at the job every few seconds by whatever means the cluster has.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from infra.config import Config
from infra.errors import HeadwaterError
from infra.job import JobSpec
from infra.launch.logs import next_attempt
from infra.launch.node import AttemptFiles
from infra.launch.spec import JobEnd, JobHandle, OnTick

LONGEST_OUTAGE_S = 600
"""A cluster may not answer for this long (restarts, failover) before waiting for a job is given up."""
ENDING_S = 60
"""Beyond the grace of its ranks, a job that was told to end may take this long."""


class ClusterSettings(Config):
    """What every cluster is told."""

    interface: str = Field("", max_length=40)
    """Network interface of the ranks' traffic; empty: found on each node."""
    grace_s: int = Field(60, ge=5, le=3600)
    """Time the ranks get for a checkpoint when the job is ended."""
    poll_s: float = Field(5.0, ge=0.05, le=600)
    """How often the job is looked at, in seconds."""


def node_command(
    spec: JobSpec, settings: ClusterSettings, work_dir: Path, attempt: str, python: str, env: Mapping[str, str]
) -> list[str]:
    """What every node of a job runs, but for its number and the place where the nodes meet."""
    return [
        # -P: what lies in the folder where it is started is not imported.
        *(python, "-P", "-m", "infra.launch.node", "--work-dir", str(work_dir), "--attempt", attempt),
        *("--module", spec.module, "--nodes", str(spec.nodes), "--ranks", str(spec.ranks)),
        *("--threads", str(spec.threads_per_rank), "--grace", str(settings.grace_s)),
        *(("--interface", settings.interface) if settings.interface else ()),
        *(part for name, value in sorted(env.items()) for part in ("--env", f"{name}={value}")),
    ]


def begin_attempt(work_dir: Path) -> AttemptFiles:
    """A new attempt at the job in this work folder. Its log exists from now on: that takes the number."""
    logs = work_dir / "logs"
    files = AttemptFiles(logs, next_attempt(logs))
    (logs / f"{files.attempt}.log").touch()
    return files


def files_of(handle: JobHandle) -> AttemptFiles:
    return AttemptFiles(Path(handle.detail["work_dir"]) / "logs", handle.detail["attempt"])


class ClusterLauncher(ABC):
    """A launcher that looks at its job, and acts on it, from time to time. Submitting is each cluster's own."""

    kind: str
    settings: ClusterSettings

    @abstractmethod
    def look(self, handle: JobHandle) -> JobEnd | str:
        """How the job ended; while it has not, what it waits for (nothing, once it runs). Raises HeadwaterError if the
        cluster does not answer."""

    @abstractmethod
    def attach(self, handle: JobHandle) -> bool:
        """True if the job is still running and can be waited for."""

    @abstractmethod
    def cancel(self, handle: JobHandle) -> None:
        """Have the cluster end the job. Its nodes have been told already."""

    def is_there(self, handle: JobHandle) -> bool:
        """Whether anything of the job is left that must end."""
        return self.attach(handle)

    def wait(self, handle: JobHandle, on_tick: OnTick) -> JobEnd:
        found: JobEnd | str = ""
        answered = time.monotonic()
        while True:
            try:
                found, answered = self.look(handle), time.monotonic()
            except HeadwaterError:
                if time.monotonic() - answered > LONGEST_OUTAGE_S:
                    raise
            if isinstance(found, JobEnd):
                return found
            again = time.monotonic() + self.settings.poll_s
            while True:
                on_tick(found)
                time.sleep(min(1.0, self.settings.poll_s))
                if time.monotonic() >= again:
                    break

    def terminate(self, handle: JobHandle) -> None:
        """The ranks are asked to save and leave, through the work folder; then the cluster is asked to end the job."""
        files_of(handle).stop.touch()  # also for nodes that have not started yet
        if self.is_there(handle):
            self.cancel(handle)
        deadline = time.monotonic() + self.settings.grace_s + ENDING_S
        while self.is_there(handle):
            if time.monotonic() > deadline:
                raise HeadwaterError(
                    f"the {self.kind} job {handle.id} does not end",
                    where=handle.detail["work_dir"],
                    remedy="End it by hand on the cluster, then run again.",
                )
            time.sleep(min(1.0, self.settings.poll_s))

    def dump_stacks(self, handle: JobHandle) -> None:
        files_of(handle).stacks.touch()
