"""Prefect on this machine: server, deployments, workers; all of it ends with the process that started it.

Server and workers each run below a guard, so nothing is left behind however this process ends. Everything listens on
the loopback interface only.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.recipe import Recipe
from flows.server import answers, configure, forget_server, prefect_home, record_server, running_server
from infra.errors import ConfigError, HeadwaterError
from infra.store.store import Store

HOST = "127.0.0.1"
DEFAULT_PORT = 4200
SERVER_START_S = 180.0
WORKER_GRACE_S = 20.0
SERVER_GRACE_S = 8.0


@dataclass(frozen=True)
class Service:
    """A child process below a guard, and its log."""

    name: str
    guard: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise if it has ended."""
        if self.guard.poll() is not None:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            raise HeadwaterError(
                f"the Prefect {self.name} ended: {lines[-1] if lines else 'its log is empty'}",
                where=str(self.log),
                remedy="Read the log, mend the cause and start again.",
            )

    def stop(self, grace_s: float) -> None:
        self.guard.terminate()
        try:
            self.guard.wait(grace_s + 5)
        except subprocess.TimeoutExpired:
            self.guard.terminate()  # a guard's second TERM means now
            self.guard.wait(30)


def serve(
    recipes: list[Recipe],
    store: Store,
    *,
    watch: bool,
    port: int = DEFAULT_PORT,
    database_url: str | None = None,
    ready: Callable[[str, list[str]], None],
) -> None:
    """Start everything, call ``ready`` with the UI's address and the deployments, then wait until told to stop."""
    address = running_server(store)
    if address is not None:
        raise HeadwaterError(
            "a Prefect server already serves this workspace", where=address, remedy="Use it, or stop it first."
        )
    check_port(port)
    ui, api = f"http://{HOST}:{port}", f"http://{HOST}:{port}/api"
    configure(store, api)
    os.environ["HEADWATER_HOME"] = store.address
    if database_url:
        os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = async_url(database_url)
    logs = prefect_home(store) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    server_command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with _service("server", server_command, logs, SERVER_GRACE_S) as server:
        _await_server(server, api)
        # Prefect is imported here, once it is configured.
        from flows.automations import ensure_automations, notification_target
        from flows.deploying import deploy

        names = deploy(recipes, watch=watch)
        ensure_automations(notification_target())
        with _service("workers", ["-m", "flows.worker"], logs, WORKER_GRACE_S) as workers:
            record_server(store, api, ui)
            try:
                ready(ui, names)
                while True:
                    server.check()
                    workers.check()
                    time.sleep(1.0)
            finally:
                forget_server(store)


def check_port(port: int) -> None:
    """Refuse a port that somebody listens on, before anything is started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise ConfigError(
                f"port {port} is in use", where=HOST, remedy=f"Choose another: headwater up --port {port + 1}."
            ) from None


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


@contextmanager
def _service(name: str, arguments: list[str], logs: Path, grace_s: float) -> Iterator[Service]:
    log = logs / f"{name}.log"
    with log.open("wb") as stream:
        guard = subprocess.Popen(
            [
                *(sys.executable, "-m", "infra.launch.guard", "--ppid", str(os.getpid())),
                *("--grace", str(grace_s), "--", sys.executable, *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we end the services in order
        )
    service = Service(name, guard, log)
    try:
        yield service
    finally:
        with _uninterrupted():
            service.stop(grace_s)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave the other services running."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _await_server(server: Service, api: str) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while not answers(api):
        server.check()
        if time.monotonic() > deadline:
            raise HeadwaterError(
                f"the Prefect server did not answer within {SERVER_START_S:g} s",
                where=str(server.log),
                remedy="Read the log; a slow disk or an unreachable database are the usual causes.",
            )
        time.sleep(0.3)
