"""Prefect on this machine: server, deployments, workers; all of it ends with the process that started it.

Server and workers each run below a guard, so nothing is left behind however this process ends. One that dies is started
again: flow runs bridge minutes without the server, and those that died with the workers are run again by the next ones
(``flows.operate.lost_runs``). The deployments are made by a process of its own, ``headwater deploy``, while the server
starts: this one stays for weeks, and imports neither Prefect nor torch.

Everything listens on the loopback interface unless told otherwise, and the server asks for a password wherever it listens.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.operate.server import answers, configure, forget_server, prefect_home, record_server, running_server
from flows.operate.services import Service, service
from infra.errors import ConfigError, HeadwaterError
from infra.store.store import Store

HOST = "127.0.0.1"
DEFAULT_PORT = 4200
SERVER_START_S = 180.0
WORKER_GRACE_S = 20.0
SERVER_GRACE_S = 8.0


@dataclass(frozen=True)
class Serving:
    """What is to be served, and where."""

    store: Store
    recipes: Sequence[str]
    """Names or files; none: those that are deployed where none is named."""
    overrides: Sequence[str] = ()
    watch: bool | None = None
    host: str = HOST
    port: int = DEFAULT_PORT
    database_url: str | None = None

    @property
    def ui(self) -> str:
        """Where this machine finds it: a server that listens on every address is asked on the loopback interface."""
        if self.host in ("0.0.0.0", "::"):
            return f"http://{HOST}:{self.port}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def serve(wanted: Serving, *, ready: Callable[[list[str]], None], say: Callable[[str], None]) -> None:
    """Start everything, call ``ready`` with the deployments, then keep it up until told to stop; ``say`` is told what had to
    be started again."""
    store, api = wanted.store, f"{wanted.ui}/api"
    address = running_server(store)
    if address is not None:
        raise HeadwaterError(
            "a Prefect server already serves this workspace", where=address, remedy="Use it, or stop it first."
        )
    check_port(wanted.port, wanted.host)
    os.environ.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", wanted.ui)
    configure(store, api, serving=True)
    os.environ["HEADWATER_HOME"] = store.address
    if wanted.database_url:
        os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = async_url(wanted.database_url)
    logs = prefect_home(store) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    server_command = ["-m", "flows.operate.prefect_server", "--host", wanted.host, "--port", str(wanted.port)]
    with service("server", server_command, logs, SERVER_GRACE_S) as server:
        names = _deploy(wanted, server, logs / "deploy.log")
        with service("workers", ["-m", "flows.operate.worker"], logs, WORKER_GRACE_S) as workers:
            record_server(store, api, wanted.ui)
            try:
                ready(names)
                while True:
                    _keep_up(server, workers, api, say)
                    time.sleep(1.0)
            finally:
                forget_server(store)


def check_port(port: int, host: str = HOST) -> None:
    """Refuse an address that somebody listens on, or that is not this machine's, before anything is started."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise ConfigError("there is no such address", where=host, remedy="Give an address of this machine.") from None
    except OSError as error:
        if not isinstance(error, PermissionError) and _is_here(host):
            raise ConfigError(
                f"port {port} is in use", where=host, remedy=f"Choose another: headwater up --port {port + 1}."
            ) from None
        raise ConfigError(
            f"the server cannot listen on port {port} ({error.strerror})",
            where=host,
            remedy="Give an address of this machine, and a port above 1023.",
        ) from None


def _is_here(host: str) -> bool:
    """Whether some port of that address is to be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def async_url(database_url: str) -> str:
    """Prefect's server speaks to its database through an asynchronous driver, which its URL must name."""
    for plain, driver in (("postgresql://", "postgresql+asyncpg://"), ("postgres://", "postgresql+asyncpg://")):
        if database_url.startswith(plain):
            return driver + database_url.removeprefix(plain)
    if not database_url.startswith(("postgresql+asyncpg://", "sqlite+aiosqlite://")):
        raise ConfigError(
            "the database URL is of a kind the Prefect server cannot use",
            where=database_url.split("@")[-1],
            remedy="Give postgresql://user:password@host/name, or leave it out for SQLite below the workspace.",
        )
    return database_url


def _deploy(wanted: Serving, server: Service, log: Path) -> list[str]:
    """``headwater deploy`` in a process of its own: it reads the recipes while the server starts, then waits for it."""
    words = [word for name in wanted.recipes for word in ("--recipe", name)]
    words += [word for override in wanted.overrides for word in ("--set", override)]
    if wanted.watch is not None:
        words.append("--watch" if wanted.watch else "--no-watch")
    command = [sys.executable, "-m", "flows.cli.main", "deploy", *words, "--json", "--wait", f"{SERVER_START_S:g}"]
    with log.open("wb") as stream:
        deploying = subprocess.Popen(
            [*command, "--workspace", wanted.store.address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
        )
    try:
        while deploying.poll() is None:
            server.check()
            time.sleep(0.3)
    finally:
        if deploying.poll() is None:
            deploying.kill()
        said, _ = deploying.communicate()
    if deploying.returncode != 0:
        raise _why(log)
    return list(json.loads(said)["deployments"])


def _why(log: Path) -> HeadwaterError:
    """What ``headwater deploy`` failed with: the last line it wrote."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    try:
        return HeadwaterError(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        return HeadwaterError(
            f"the deployments could not be made: {lines[-1] if lines else 'its log is empty'}",
            where=str(log),
            remedy="Read the log, mend the cause and start again.",
        )


def _keep_up(server: Service, workers: Service, api: str, say: Callable[[str], None]) -> None:
    if server.ended():
        server.restart(say)
    elif workers.ended() and answers(api):  # without a server they could not begin
        workers.restart(say)
