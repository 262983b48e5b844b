"""The services of the compose file, started for tests in a project with a name and a port of its own."""

import base64
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docker.engine import Engine

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Services:
    engine: Engine
    tree: Path
    project: str
    port: int

    def call_script(self, name: str, *arguments: str, check: bool = True, timeout: float = 420) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{Path('/usr/bin')}{os.pathsep}{os.environ['PATH']}"
        command = (self.tree / "docker" / name, *arguments)
        return self.engine.run(*command, check=check, timeout=timeout, PATH=path, COMPOSE_PROJECT_NAME=self.project)

    def compose(self, *arguments: str, check: bool = True, timeout: float = 420) -> str:
        return self.call_script("compose.sh", *arguments, check=check, timeout=timeout)

    def up(self) -> None:
        self.call_script("start.sh")

    def settings(self, **changes: str) -> None:
        """Change docker/.env, as an operator does."""
        file = self.tree / "docker/.env"
        kept = [line for line in file.read_text().splitlines() if line.split("=")[0] not in changes]
        file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in changes.items())]) + "\n")

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def health(self, service: str) -> str:
        return self.engine.docker("inspect", "--format", "{{.State.Health.Status}}", self.container(service)).strip()

    def secret(self, name: str) -> str:
        return (self.tree / "docker/secrets" / name).read_text().strip()

    def call(self, path: str, body: Any = None, *, method: str | None = None, auth: bool = True) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api{path}", data, method=method)
        request.add_header("content-type", "application/json")
        if auth:
            request.add_header("authorization", f"Basic {base64.b64encode(self.secret('api_auth').encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    def deploy(self, *recipes: str) -> None:
        """Deploy recipes that are files where the services run."""
        named = [word for recipe in recipes for word in ("--recipe", recipe)]
        self.compose(
            "exec", "-T", "worker-control", "headwater-entrypoint", "headwater", "deploy", "--no-watch", *named
        )

    def start(self, deployment: str, **changes: Any) -> str:
        """Start a deployment as the UI's form does; returns the flow run's id."""
        found = self.call(f"/deployments/name/{deployment}")
        form = found["parameters"]["params"] | changes
        return str(self.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": {"params": form}})["id"])

    def wait(self, run: str, *states: str, timeout_s: float = 300) -> dict[str, Any]:
        """The flow run once it is in one of the states (by default: any final one)."""
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self.call(f"/flow_runs/{run}"))
            return found["state_type"] in (states or ENDED)

        eventually(there, timeout_s, lambda: f"{found.get('state_name')}: {found.get('state', {}).get('message')}")
        return found

    def job_containers(self, run: str, *, everything: bool = False) -> list[str]:
        """Ids of the containers of a flow run in a pool of kind docker."""
        arguments = ["ps", "--quiet", "--no-trunc", "--filter", f"label=io.prefect.flow-run-id={run}"]
        return self.engine.docker(*arguments, *(["--all"] if everything else [])).split()


def eventually(there: Callable[[], bool], timeout_s: float, complaint: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if there():
                return
            problem = complaint()
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:  # restarting, or busy
            problem = str(error)
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {problem}")
        time.sleep(0.5)


@contextmanager
def services_of(engine: Engine, tree: Path) -> Iterator[Services]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Services(engine, tree, f"headwater-test-{os.getpid()}", port)
    shutil.rmtree(tree / "docker/secrets", ignore_errors=True)
    (tree / "docker/.env").unlink(missing_ok=True)
    engine.run(tree / "docker/first-use.sh")
    running.settings(HEADWATER_PORT=str(port), HEADWATER_WORKER_MEMORY="4g")
    try:
        running.up()
        yield running
    finally:
        running.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)
