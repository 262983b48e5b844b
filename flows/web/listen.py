"""Listening: the socket is taken before models are loaded, so that a busy port is told at once."""

import ipaddress
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from flows.web.guard import digest
from flows.web.site import Site
from infra.errors import ConfigError, InputError

SHORTEST_KEY = 16
CLOSING_SECONDS = 5


def read_keys(path: Path) -> frozenset[str]:
    """Digests of the keys in a file, one a line; lines that begin with # are comments."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the key file cannot be read", where=str(path), remedy="One key a line, in UTF-8.") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    wrong = "no key" if not keys else "a key that is too short" if min(map(len, keys)) < SHORTEST_KEY else ""
    if not all(key.isascii() and key.isprintable() for key in keys):
        wrong = "a key with characters that no header carries"
    if wrong:
        raise InputError(
            f"the key file holds {wrong}",
            where=str(path),
            remedy=f"One key a line, each of {SHORTEST_KEY} ASCII characters or more: openssl rand -hex 32.",
        )
    return frozenset(map(digest, keys))


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def take_socket(host: str, port: int, keys: frozenset[str], stall_seconds: float = 60) -> socket.socket:
    """The listening socket. Beyond this machine only with keys. The kernel cuts off clients that take nothing for long."""
    if not is_loopback(host) and not keys:
        raise ConfigError(
            "a server without keys listens on this machine alone",
            where=host,
            remedy="Give --api-key-file, or leave --host out and use ssh -L.",
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("this is no address of a machine", where=host, remedy="Give --host an address.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_seconds * 1000))
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen on port {port}: {error.strerror}", where=host, remedy="Choose another --port."
        ) from error
    return listener


class _Server(uvicorn.Server):
    """Ends what is being written before it waits for its connections to end."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self.site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for model in self.site.models.values():
            await run_in_threadpool(model.engine.close)
        await super().shutdown(sockets)


def server(app: FastAPI, site: Site) -> uvicorn.Server:
    """What answers with the application, until it is told to exit or interrupted."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=CLOSING_SECONDS,
        h11_max_incomplete_event_size=64 << 10,
    )
    return _Server(config, site)
