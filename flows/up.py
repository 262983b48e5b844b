"""Prefect on this machine: server, deployments, workers; all of it ends with the process that started it.

Server and workers each run below a guard, so nothing is left behind however this process ends. One that dies is started
again: flow runs bridge minutes without the server, and those that died with the workers are run again by the next ones.
Everything listens on the loopback interface only.
"""

import os
import socket
import time
from collections.abc import Callable

from flows.recipe import Recipe
from flows.server import answers, configure, forget_server, prefect_home, record_server, running_server
from flows.services import Service, service
from infra.errors import ConfigError, HeadwaterError
from infra.store.store import Store

HOST = "127.0.0.1"
DEFAULT_PORT = 4200
SERVER_START_S = 180.0
WORKER_GRACE_S = 20.0
SERVER_GRACE_S = 8.0


def serve(
    recipes: list[Recipe],
    store: Store,
    *,
    watch: bool,
    port: int = DEFAULT_PORT,
    database_url: str | None = None,
    ready: Callable[[str, list[str]], None],
    say: Callable[[str], None],
) -> None:
    """Start everything, call ``ready`` with the UI's address and the deployments, then keep it up until told to stop;
    ``say`` is told what had to be started again."""
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
    server_command = ["-m", "flows.prefect_server", "--host", HOST, "--port", str(port)]
    with service("server", server_command, logs, SERVER_GRACE_S) as server:
        _await_server(server, api)
        # Prefect is imported here, once it is configured.
        from flows.automations import ensure_automations, notification_target
        from flows.deploying import deploy

        names = deploy(recipes, watch=watch)
        ensure_automations(notification_target())
        _hand_back(say)  # of workers before this start that had no time to tell their end
        with service("workers", ["-m", "flows.worker"], logs, WORKER_GRACE_S) as workers:
            record_server(store, api, ui)
            try:
                ready(ui, names)
                while True:
                    _keep_up(server, workers, api, say)
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


def _keep_up(server: Service, workers: Service, api: str, say: Callable[[str], None]) -> None:
    if server.ended():
        server.restart(say)
    elif workers.ended() and answers(api):  # without a server they could not begin
        import httpx  # comes with Prefect, and takes its time

        try:
            _hand_back(say)
        except httpx.HTTPError:  # it is away again: another look, another try
            return
        workers.restart(say)


def _hand_back(say: Callable[[str], None]) -> None:
    from flows.lost_runs import hand_back  # Prefect

    for name in hand_back():
        say(f"{name} lost its process with its worker, and is run again.")


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
