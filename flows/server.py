"""Where this workspace's Prefect server is, and the settings every process of ours gives Prefect.

Prefect reads its settings when it is first imported, so ``configure`` must run before that. Everything Prefect keeps
(its database, logs, settings) lives below the workspace, never in the user's home. ``headwater up`` writes
``prefect/server.json``; a run in the same workspace finds the server there, or at ``PREFECT_API_URL``.
"""

import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from infra.store.files import write_json
from infra.store.lease import is_alive
from infra.store.store import Store

HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class ServerRecord:
    """What ``headwater up`` leaves for others to find it."""

    api_url: str
    ui_url: str
    pid: int
    started: float
    """When that process began: a number alone may belong to another process by now."""


def prefect_home(store: Store) -> Path:
    return store.home / "prefect"


def configure(store: Store, api_url: str | None) -> None:
    """Set Prefect's environment for this process and its children. Values the user has set stay."""
    home = prefect_home(store).resolve()
    home.mkdir(parents=True, exist_ok=True)
    for name, value in settings(home).items():
        os.environ.setdefault(name, value)
    if api_url is not None:
        os.environ["PREFECT_API_URL"] = api_url
    else:
        os.environ.pop("PREFECT_API_URL", None)
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"


def settings(home: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        # The default of 20 s is less than a first start on a small machine takes.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Events outweigh everything else in the database; they are a feed, not a record.
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3D",
        "PREFECT_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def record_server(store: Store, api_url: str, ui_url: str) -> None:
    """Called by the process whose life is the server's."""
    record = ServerRecord(api_url, ui_url, os.getpid(), psutil.Process().create_time())
    write_json(_record_path(store), asdict(record))


def forget_server(store: Store) -> None:
    _record_path(store).unlink(missing_ok=True)


def running_server(store: Store) -> str | None:
    """The API address of a server that answers, or None."""
    address = os.environ.get("PREFECT_API_URL") or _recorded_address(store)
    return address if address and answers(address) else None


def answers(api_url: str, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return False


def _recorded_address(store: Store) -> str | None:
    try:
        record = ServerRecord(**json.loads(_record_path(store).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return record.api_url if is_alive(record.pid, record.started) else None


def _record_path(store: Store) -> Path:
    return prefect_home(store) / "server.json"
