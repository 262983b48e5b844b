"""A container engine for the tests: the one that runs, or else one of our own that ends with them.

Our own is ``dockerd`` with everything it keeps in one folder. That folder can be kept between test runs, with the images
in it, by naming it in ``HEADWATER_TEST_ENGINE``.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import REPOSITORY

START_S = 60.0


@dataclass(frozen=True)
class Engine:
    """An engine that answers."""

    socket: str
    """Its socket, or empty for the one that the environment names."""

    @property
    def address(self) -> dict[str, str]:
        """The variables by which clients find it."""
        if not self.socket:
            return {}
        return {"DOCKER_HOST": f"unix://{self.socket}", "HEADWATER_DOCKER_SOCKET": self.socket}

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_BUILDKIT": "1", **self.address}

    def run(self, *command: str | Path, check: bool = True, timeout: float = 900, **extra: str) -> str:
        """Run a program with this engine in its environment; returns what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**self.environment, **extra},
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
            )
        return done.stdout if check else done.stdout + done.stderr

    def docker(self, *arguments: str | Path, check: bool = True, timeout: float = 900) -> str:
        return self.run(docker_command(), *arguments, check=check, timeout=timeout)

    def has_image(self, name: str) -> bool:
        return bool(self.docker("images", "--quiet", name).strip())


def docker_command() -> str:
    """The engine's own client before any other that is in front of it on the path."""
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker") or "docker"


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine; skips where none can be had."""
    running = Engine("")
    if shutil.which(docker_command()) and _answers(running):
        yield running
        return
    daemon = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/sbin")
    if daemon is None or os.geteuid() != 0:
        pytest.skip("no container engine answers, and none can be started (dockerd and root are needed)")
    with _own_engine(daemon) as own:
        yield own


@contextmanager
def _own_engine(daemon: str) -> Iterator[Engine]:
    kept = os.environ.get("HEADWATER_TEST_ENGINE")
    folder = Path(kept or tempfile.mkdtemp(prefix="headwater-engine-"))
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "docker.sock"
    settings = {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "docker.pid"),
        "hosts": [f"unix://{socket}"],
        "storage-driver": "overlay2",
    }
    (folder / "daemon.json").write_text(json.dumps(settings))
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [daemon, "--config-file", str(folder / "daemon.json")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        own = Engine(str(socket))
        deadline = time.monotonic() + START_S
        while not _answers(own):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {(folder / 'dockerd.log').read_text()[-300:]}")
            time.sleep(0.3)
        yield own
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _answers(candidate: Engine) -> bool:
    try:
        done = subprocess.run(
            [docker_command(), "info"], capture_output=True, timeout=30, env=candidate.environment, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def source_tree(folder: Path) -> Path:
    """The repository as a user gets it: what git tracks, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    for name in listed.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target)
    return folder
