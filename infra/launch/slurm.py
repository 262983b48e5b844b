"""Process groups on SLURM: one ``sbatch`` whose ``srun`` starts torchrun on every node.

* The script is rendered by a pure function and kept beside the logs (``logs/try-1.sbatch``), to be read and run by hand.
* The job's name is derived from the work folder. Before a job is submitted, one of that name that still runs is ended:
  two process groups never write to one work folder, also if a driver died between submitting and writing ``job.json``.
* A job that SLURM preempts, or whose node fails, is put back into the queue by SLURM under the same number and goes on
  from its last checkpoint; ``wait`` waits through that. Before the partition's time limit SLURM warns the script, which has
  the ranks write a checkpoint and puts the job back itself. All of that also happens while no driver is there.
* Everything else is decided by ``infra.launch.restart`` as for any launcher: success is a verified result.
"""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobSpec
from infra.launch.cluster import ClusterLauncher, ClusterSettings, begin_attempt, files_of, node_command
from infra.launch.logs import read_logs
from infra.launch.spec import JobEnd, JobHandle
from infra.store.files import write_bytes

COMMAND_LIMIT_S = 60
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"}
FIRST_PORT, PORTS = 20000, 20000


class SlurmSettings(ClusterSettings):
    """What ``sbatch`` is asked for, besides nodes and tasks, which the stage says."""

    partition: str = Field("", max_length=200)
    """Partition; empty: the cluster's default."""
    account: str = Field("", max_length=200)
    """Account that is charged; empty: the user's default."""
    qos: str = Field("", max_length=200)
    """Quality of service; empty: the default."""
    time: str = Field("", max_length=40, pattern=r"^[0-9:-]*$")
    """Time limit of one start of the job as SLURM writes it (``2-00:00:00``); empty: the partition's."""
    gres: str = Field("", max_length=200)
    """Generic resources of a node, such as ``gpu:8``."""
    cpus_per_rank: int = Field(0, ge=0, le=1024)
    """Cores of a rank; 0: as many as it has threads."""
    mem: str = Field("", max_length=40)
    """Memory of a node (``200G``); empty: the default."""
    extra: tuple[str, ...] = ()
    """More options of sbatch, one each: ``--constraint=h200``."""
    rendezvous_host: str = Field("", max_length=300)
    """Where the nodes meet; empty: the first node by its name."""
    grace_s: int = Field(120, ge=5, le=3600)
    """Time the ranks get for a checkpoint before the time limit, and when the job is ended."""
    setup: tuple[str, ...] = ()
    """Shell lines before the ranks start: ``module load cuda``."""


def render(spec: JobSpec, settings: SlurmSettings, work_dir: Path, attempt: str, python: str = sys.executable) -> str:
    """The batch script of one attempt."""
    logs = work_dir / "logs"
    options = {
        "job-name": job_name(work_dir),
        "nodes": str(spec.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(spec.ranks * (settings.cpus_per_rank or spec.threads_per_rank)),
        "output": str(logs / f"{attempt}.log").replace("%", "%%"),
        "open-mode": "append",
        "signal": f"B:USR1@{settings.grace_s}",
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.time,
        "gres": settings.gres,
        "mem": settings.mem,
    }
    head = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    head += ["#SBATCH --requeue", "#SBATCH --export=ALL", *(f"#SBATCH {option}" for option in settings.extra)]
    first = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    host = shlex.quote(settings.rendezvous_host) if settings.rendezvous_host else first
    node = [*node_command(spec, settings, work_dir, attempt, python, spec.env), "--together"]
    # The node's number is known on the node only: srun hands the line to a shell there.
    line = f'exec {shlex.join(node)} --node "$SLURM_NODEID" --endpoint "$HEADWATER_ENDPOINT" --rendezvous "$HEADWATER_RENDEZVOUS"'
    return "\n".join(
        [
            "#!/bin/bash",
            *head,
            "",
            "set -u",
            *settings.setup,
            f"host={host}",
            f'export HEADWATER_ENDPOINT="$host:$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))"',
            f'export HEADWATER_RENDEZVOUS="{attempt}.{"${SLURM_RESTART_COUNT:-0}"}"',
            "again=0",
            "# USR1: the time limit is near. The ranks save and leave, and the job goes back into the queue.",
            "trap 'again=1; scancel --signal=TERM \"$SLURM_JOB_ID\"' USR1",
            f"srun --kill-on-bad-exit=1 --wait={settings.grace_s} bash -c {shlex.quote(line)} &",
            "step=$!",
            "while :; do",
            '  wait "$step"; code=$?',
            '  kill -0 "$step" 2>/dev/null || break  # otherwise only the wait was interrupted, by USR1',
            "done",
            f'if [ "$again" = 1 ] && [ ! -e {shlex.quote(str(work_dir / "result.json"))} ]; then',
            '  scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            'exit "$code"',
            "",
        ]
    )


def job_name(work_dir: Path) -> str:
    """``headwater-pretrain-1a2b3c4d5e6f-…``: readable, and the same for every attempt in this work folder."""
    mark = hashlib.sha256(str(work_dir.resolve()).encode()).hexdigest()[:8]
    return f"headwater-{work_dir.parent.name}-{work_dir.name}-{mark}"


@dataclass
class SlurmLauncher(ClusterLauncher):
    """A SLURM cluster, by its own commands on this machine."""

    settings: SlurmSettings = field(default_factory=SlurmSettings)
    kind: str = "slurm"

    def submit(self, spec: JobSpec, work_dir: Path) -> JobHandle:
        work_dir = work_dir.resolve()
        self._end_earlier(work_dir)
        files = begin_attempt(work_dir)
        script = files.logs / f"{files.attempt}.sbatch"
        write_bytes(script, render(spec, self.settings, work_dir, files.attempt).encode())
        number = _slurm("sbatch", "--parsable", "--chdir", str(work_dir), str(script)).split(";")[0].strip()
        handle = JobHandle(self.kind, number, "", {"work_dir": str(work_dir), "attempt": files.attempt})
        handle.save(work_dir)
        return handle

    def look(self, handle: JobHandle) -> JobEnd | str:
        state, reason = self._state(handle)
        if state in ENDED or not state:
            return self._end(handle, state, reason)
        return "" if state in RUNNING else f"job {handle.id} waits in SLURM's queue ({state}: {reason})"

    def attach(self, handle: JobHandle) -> bool:
        state, _ = self._state(handle)
        return bool(state) and state not in ENDED

    def cancel(self, handle: JobHandle) -> None:
        _slurm("scancel", handle.id)

    def _state(self, handle: JobHandle) -> tuple[str, str]:
        """State and reason; empty once the controller has forgotten the job, which it does some minutes after its end."""
        try:
            text = _slurm("scontrol", "--oneliner", "show", "job", handle.id)
        except HeadwaterError as error:
            if "Invalid job id" in error.error:
                return "", ""
            raise
        found = {name: re.search(rf"\b{name}=(\S*)", text) for name in ("JobState", "Reason")}
        state, reason = (match.group(1) if match else "" for match in found.values())
        return state, reason

    def _end(self, handle: JobHandle, state: str, reason: str) -> JobEnd:
        files = files_of(handle)
        verdict, end = read_logs(files.logs, files.attempt)
        words = {"PREEMPTED": "preempted", "NODE_FAIL": "preempted: a node failed", "TIMEOUT": "preempted: time limit"}
        if state == "OUT_OF_MEMORY":
            end += "\nSLURM: out of memory\n"
        # A job that nobody of us ended: terminate() leaves its sign before it cancels.
        cancelled = state == "CANCELLED" and not files.stop.exists()
        cause = words.get(state) or verdict or f"SLURM state {state or 'unknown'} ({reason or 'no reason'})"
        return JobEnd(0 if state == "COMPLETED" else 1, cause, end, cancelled)

    def _end_earlier(self, work_dir: Path) -> None:
        """End what an earlier driver submitted for this work folder."""
        name = job_name(work_dir)
        numbers = _slurm("squeue", "--noheader", "--format=%i", f"--name={name}", "--states=all").split()
        for number in numbers:
            handle = JobHandle(self.kind, number, "", {"work_dir": str(work_dir), "attempt": "earlier"})
            self.terminate(handle)


def _slurm(*command: str) -> str:
    """One of SLURM's commands; its own words become the error."""
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"there is no {command[0]} on this machine",
            remedy="Start the run on a login node of the cluster, or choose another execution.launcher.",
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise HeadwaterError(f"{command[0]} does not answer", remedy="Look at SLURM with sinfo and sdiag.") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        kind = ConfigError if command[0] == "sbatch" else HeadwaterError
        raise kind(f"{command[0]} failed: {said}", remedy="Check execution.slurm and the cluster (sinfo, squeue).")
    return done.stdout
