"""Process groups on a list of machines without a scheduler: torchrun's rendezvous, one command a host.

The command of each host is the same but for the host's number. It is run over ssh, or (``start: print``) told to the user,
who starts it by whatever means there are. From then on the launcher and the hosts talk through the shared work folder
(``infra.launch.node``), so a job goes on while no driver is there, and a later driver attaches to it.
"""

import random
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from infra.errors import ConfigError
from infra.job import JobSpec
from infra.launch.cluster import ClusterLauncher, ClusterSettings, begin_attempt, files_of, node_command
from infra.launch.logs import read_logs
from infra.launch.node import BEAT_S
from infra.launch.spec import JobEnd, JobHandle
from infra.store.files import read_json, write_bytes

SILENT_S = 12 * BEAT_S
"""A node whose state is older than this is gone."""
START_LIMIT_S = 120
"""A host whose command was sent must show itself within this."""

HANG_UP_S = 10


class HostsSettings(ClusterSettings):
    """The machines, and how a command gets there."""

    names: tuple[str, ...] = ()
    """Hosts in order, by the names ssh takes; the first one hosts the rendezvous."""
    start: Literal["ssh", "print"] = "ssh"
    """Run each host's command over ssh, or print the commands and wait for them to be started."""
    ssh: tuple[str, ...] = ("ssh", "-o", "BatchMode=yes")
    """The program that runs a command line on a host: it is given the host and the line."""
    python: str = Field("", max_length=1000)
    """Python with headwater on the hosts; empty: the same path as here."""
    rendezvous_host: str = Field("", max_length=300)
    """Where the hosts meet, as they see it; empty: the first host's name."""
    port: int = Field(0, ge=0, le=65535)
    """Port of the rendezvous on the first host; 0: one chosen for each attempt."""
    grace_s: int = Field(20, ge=5, le=3600)
    """Time the ranks get for a checkpoint when the job is ended."""
    poll_s: float = Field(0.5, ge=0.05, le=600)
    """How often the job is looked at, in seconds."""


def render(spec: JobSpec, settings: HostsSettings, work_dir: Path, attempt: str, port: int) -> list[str]:
    """The command line of each host."""
    host = settings.rendezvous_host or settings.names[0].rpartition("@")[2]
    command = node_command(spec, settings, work_dir, attempt, settings.python or sys.executable, spec.env)
    place = ("--endpoint", f"{host}:{port}")
    return [shlex.join([*command, *place, "--node", str(number)]) for number in range(spec.nodes)]


@dataclass
class HostsLauncher(ClusterLauncher):
    """The first ``nodes`` hosts of the list."""

    settings: HostsSettings
    kind: str = "hosts"
    _started: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        work_dir = work_dir.resolve()
        if len(self.settings.names) < spec.nodes:
            raise ConfigError(
                f"{spec.module} wants {spec.nodes} nodes, and execution.hosts.names lists {len(self.settings.names)}",
                remedy="Add hosts, or lower the stage's nodes.",
            )
        files = begin_attempt(work_dir)
        attempt = files.attempt
        port = self.settings.port or random.SystemRandom().randrange(20000, 32000)
        commands = render(spec, self.settings, work_dir, attempt, port)
        hosts = self.settings.names[: spec.nodes]
        listing = "\n".join(f"# {host}\n{command}" for host, command in zip(hosts, commands, strict=True))
        write_bytes(files.logs / f"{attempt}.commands", f"{listing}\n".encode())
        detail = {"work_dir": str(work_dir), "attempt": attempt, "nodes": spec.nodes, "submitted": time.time()}
        handle = JobHandle(self.kind, attempt, "", detail)
        handle.save(work_dir)
        with (files.logs / f"{attempt}.log").open("ab") as log:
            if self.settings.start == "ssh":
                self._started[attempt] = [
                    subprocess.Popen(
                        [*self.settings.ssh, host, command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                    for host, command in zip(hosts, commands, strict=True)
                ]
        return handle

    def look(self, handle: JobHandle) -> JobEnd | str:
        states = self._states(handle)
        codes = [state["code"] for state in states if state and state["code"] is not None]
        if any(codes):  # one has failed: the others would wait for it
            self.terminate(handle)
            return self._end(handle, next(code for code in codes if code))
        if len(codes) == len(states):
            return self._end(handle, 0)
        lost = self._lost(handle, states)
        if lost:
            self.terminate(handle)
            return replace(self._end(handle, 1), reason=lost)
        missing = [name for name, state in zip(self._hosts(handle), states, strict=True) if state is None]
        return self._invitation(handle, missing) if missing else ""

    def attach(self, handle: JobHandle) -> bool:
        if any(state and state["code"] is not None for state in self._states(handle)):
            self.terminate(handle)
            return False
        return self.is_there(handle)

    def is_there(self, handle: JobHandle) -> bool:
        """Whether any node still speaks."""
        return any(
            state and state["code"] is None and time.time() - state["beat"] < SILENT_S for state in self._states(handle)
        )

    def cancel(self, handle: JobHandle) -> None:
        """Nothing: the nodes listen to their files alone."""

    def terminate(self, handle: JobHandle) -> None:
        super().terminate(handle)
        self._hang_up(handle)

    def _hosts(self, handle: JobHandle) -> tuple[str, ...]:
        return self.settings.names[: int(handle.detail["nodes"])]

    def _states(self, handle: JobHandle) -> list[dict[str, Any] | None]:
        """What each node last wrote about itself."""
        paths = [files_of(handle).state(node) for node in range(int(handle.detail["nodes"]))]
        return [read_json(path) if path.exists() else None for path in paths]

    def _invitation(self, handle: JobHandle, missing: list[str]) -> str:
        if self.settings.start == "ssh":
            return f"waiting for {', '.join(missing)} to start"
        commands = files_of(handle).logs / f"{handle.detail['attempt']}.commands"
        return f"start the commands of {', '.join(missing)} there; they are in {commands}"

    def _lost(self, handle: JobHandle, states: list[dict[str, Any] | None]) -> str:
        """Why an attempt cannot go on, or nothing."""
        now = time.time()
        started = self._started.get(handle.detail["attempt"], [])
        for number, (host, state) in enumerate(zip(self._hosts(handle), states, strict=True)):
            if state is not None and state["code"] is None and now - state["beat"] > SILENT_S:
                return f"host {host} was lost: nothing heard for {SILENT_S:.0f} s"
            if state is None and self.settings.start == "ssh":
                code = started[number].poll() if number < len(started) else None
                if code is not None:
                    return f"the command could not be started on host {host} (exit status {code})"
                if now - handle.detail["submitted"] > START_LIMIT_S:
                    return f"host {host} did not start within {START_LIMIT_S} s"
        return ""

    def _hang_up(self, handle: JobHandle) -> None:
        """The hosts have ended: let their last words arrive."""
        for process in self._started.pop(handle.detail["attempt"], []):
            try:
                process.wait(HANG_UP_S)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()

    def _end(self, handle: JobHandle, code: int) -> JobEnd:
        self._hang_up(handle)
        files = files_of(handle)
        reason, end = read_logs(files.logs, files.attempt)
        return JobEnd(code, reason, end)
