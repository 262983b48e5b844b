"""``headwater up`` for the length of a measurement."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import HeadwaterError

HEADWATER = (sys.executable, "-m", "flows.cli.main")


def plain_environment() -> dict[str, str]:
    """Without the caller's Prefect settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}


@contextmanager
def server_over(workspace: Path, recipe: str) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*HEADWATER, "up", "--recipe", recipe, "--workspace", str(workspace), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain_environment())
    try:
        assert process.stdout is not None
        if not any("Prefect UI" in line for line in process.stdout):
            raise HeadwaterError("headwater up did not start", remedy=f"Try it: headwater up --port {port}.")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
