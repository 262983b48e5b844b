"""A cluster whose flow runs are containers: the whole path in one, and each stage in one of its own.

Server and worker are processes of this machine, as ever, but all three pools are of kind ``docker``. The workspace is
mounted under its own path, so both sides name every file alike. A container's processes are processes of this machine
too: drivers, ranks and processes of the pool are found and killed in there as they are outside.

The undisturbed run is a container as well: the demo's code is the standard library of the Python that runs, and the
image's is another one than this machine's.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.docker.engine import Engine, engine, source_tree
from tests.docker.images import IMAGE, build, ensure_bases
from tests.flows.cluster import Cluster

POOLS = ("control", "cpu", "gpu")
IMAGE_USER = 10001
GRACE_S = 20


@contextmanager
def engine_with_image() -> Iterator[Engine]:
    """An engine that has our image; it is built if need be."""
    with engine() as running:
        if not running.has_image(IMAGE):
            with TemporaryDirectory() as folder:
                ensure_bases(running, Path(folder))
                build(running, source_tree(Path(folder, "source")), "cpu", IMAGE)
        yield running


@dataclass
class ContainerCluster(Cluster):
    """Every flow run of it is a container."""

    engine: Engine = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        hand_over(self.workspace)

    def environment(self, api: str) -> dict[str, str]:
        stage = {"IMAGE": IMAGE, "WORKSPACE": str(self.workspace), "USER": user()}
        ours = {f"HEADWATER_STAGE_{name}": value for name, value in stage.items()}
        # A run of twenty containers would wait two minutes for its worker to look: by default every 10 s.
        quick = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        return {**super().environment(api), **self.engine.address, **ours, **quick}

    def deploy(self) -> None:
        # The template names the server as containers reach it: through the wire.
        environment = self.environment(f"http://127.0.0.1:{self.wire.port}/api")
        command = [sys.executable, "-m", "flows.operate.pool_kind", "docker", *POOLS]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        super().deploy()

    def stop(self) -> None:
        """Containers are asked first: a run that ends in order gives its lease back, one that is killed keeps it for 90 s."""
        if running := containers(self.engine, self.workspace):
            self.engine.docker("stop", "--time", str(GRACE_S), *running, check=False)
        super().stop()
        remove(self.engine, self.workspace)

    def kill_container(self, container: str) -> None:
        told = self.engine.docker("kill", container, check=False)
        if "is not running" in told or "No such container" in told:
            raise ProcessLookupError(container)

    def flow_runs(self) -> set[str]:
        """Of all containers, also those in which nothing but their first process runs yet, or still."""
        return {run for process in self.family() if (run := _flow_run(process))}

    def lives(self, record: dict[str, Any]) -> bool:
        """Whether the container that wrote a run's record is there: the record names its process namespace."""
        return str(record["host"]).rpartition(".")[2] in {_namespace(process) for process in self.family()}


def undisturbed_run(engine: Engine, recipe: str, home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    hand_over(home)
    remove(engine, home)  # one that was interrupted
    engine.docker(
        *("run", "--rm", "--init", "--network", "host", "--user", user(), "--shm-size", "1g"),
        *("--volume", f"{home}:{home}", "--env", f"HEADWATER_HOME={home}", "--env", f"HEADWATER_CACHE={home}/cache"),
        *(IMAGE, "headwater", "run", recipe, "--no-prefect", "--json"),
    )


def share_downloads(undisturbed: Path, home: Path) -> None:
    if not (home / "cache").exists():
        shutil.copytree(undisturbed / "cache", home / "cache")
        for path in (home / "cache", *(home / "cache").rglob("*")):
            hand_over(path)


def containers(engine: Engine, workspace: Path, *, everything: bool = False) -> list[str]:
    """Those that a workspace is mounted in."""
    words = ["ps", "--quiet", "--no-trunc", "--filter", f"volume={workspace}"]
    return engine.docker(*words, *(["--all"] if everything else [])).split()


def remove(engine: Engine, workspace: Path) -> None:
    if found := containers(engine, workspace, everything=True):
        engine.docker("rm", "--force", "--volumes", *found, check=False)


def user() -> str:
    """Who containers run as: whoever runs this; for root the image's own user."""
    return f"{IMAGE_USER}:{IMAGE_USER}" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


def hand_over(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, IMAGE_USER, IMAGE_USER)


def _flow_run(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID")
    except (psutil.Error, OSError):
        return None


def _namespace(process: psutil.Process) -> str:
    try:
        return os.readlink(f"/proc/{process.pid}/ns/pid").strip("pid:[]")
    except OSError:  # gone
        return ""
