"""Where this workspace's Prefect server is, and the settings every process of ours gives Prefect.

Prefect reads its settings when it is first imported, so ``configure`` must run before that. Everything Prefect keeps
(its database, logs, settings) lives below the workspace, never in the user's home. ``headwater up`` writes
``prefect/server.json``; a run in the same workspace finds the server there, or at ``PREFECT_API_URL``.

A server may ask for a user and password (basic authentication). The secret, ``user:password``, comes from a file named
by ``HEADWATER_API_AUTH_FILE`` or from ``PREFECT_API_AUTH_STRING``; it travels to child processes in their environment
and stands on no command line, in no log and in no form.
"""

import base64
import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.errors import ConfigError, HeadwaterError
from infra.store.files import write_json
from infra.store.lease import is_alive
from infra.store.store import Store

HEALTH_TIMEOUT_S = 2.0
API_TIMEOUT_S = 15.0
AUTH_FILE = "HEADWATER_API_AUTH_FILE"
CLIENT_AUTH, SERVER_AUTH = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"


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
    secret = auth_string()
    if secret is not None:
        os.environ[CLIENT_AUTH] = secret
        os.environ.setdefault(SERVER_AUTH, secret)  # for a server that we start
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
        # Events are three quarters of what a run adds to the database. They are a feed, not a record; but a worker that lost
        # its websocket looks a quarter of an hour back for runs to cancel, so they are kept for a while.
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "PT1H",
        "PREFECT_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Pauses double: 5 retries bridge a minute without the server, 8 bridge eight. The work itself never waits for it.
        "PREFECT_CLIENT_MAX_RETRIES": "8",
    }


def record_server(store: Store, api_url: str, ui_url: str) -> None:
    """Called by the process whose life is the server's."""
    record = ServerRecord(api_url, ui_url, os.getpid(), psutil.Process().create_time())
    write_json(_record_path(store), asdict(record))


def forget_server(store: Store) -> None:
    _record_path(store).unlink(missing_ok=True)


def running_server(store: Store) -> str | None:
    """The API address of a server that answers, or None. A server that refuses our credentials is an error."""
    address = os.environ.get("PREFECT_API_URL") or recorded_address(store)
    if not address or not answers(address):
        return None
    api_call(address, "/admin/version")  # health is open to everybody; this is not
    return address


def require_server(store: Store, otherwise: str = "") -> str:
    """The address of the server that answers, with Prefect set up to use it. Raises HeadwaterError without one;
    ``otherwise`` says how to do without."""
    address = running_server(store)
    if address is None:
        raise HeadwaterError(
            "no Prefect server answers for this workspace",
            where=os.environ.get("PREFECT_API_URL") or str(store.home),
            remedy=f"Start one with headwater up, or name yours in PREFECT_API_URL{otherwise}.",
        )
    configure(store, address)
    return address


def answers(api_url: str, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return False


def auth_string() -> str | None:
    """``user:password`` for the server's API, or None if none is set."""
    path = os.environ.get(AUTH_FILE)
    if path is None:
        return os.environ.get(CLIENT_AUTH) or None
    try:
        secret = Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"the file with the server's credentials cannot be read ({error.strerror})",
            where=path,
            remedy=f"Mend {AUTH_FILE}, or unset it.",
        ) from error
    if ":" not in secret or "\n" in secret:
        raise ConfigError(
            "the file with the server's credentials does not hold user:password in one line",
            where=path,
            remedy="Write one line, user:password, readable by its owner only.",
        )
    return secret


def api_call(api_url: str, path: str, body: Any = None) -> Any:
    """One call of the server's API, with our credentials: GET, or POST with a body. Raises HeadwaterError."""
    host = api_url.split("//", 1)[-1].split("/", 1)[0].rsplit("@", 1)[-1]
    request = urllib.request.Request(
        f"{api_url.rstrip('/')}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    secret = auth_string()
    if secret is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=API_TIMEOUT_S) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise HeadwaterError(
                "the Prefect server asks for credentials"
                if secret is None
                else "the Prefect server refuses the credentials",
                where=host,
                remedy=f"Give user:password in a file named by {AUTH_FILE}, or in {CLIENT_AUTH}.",
            ) from None
        raise HeadwaterError(
            f"the Prefect server answers {path} with {error.code}", where=host, remedy="Read the server's log."
        ) from None
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise HeadwaterError(
            f"the Prefect server cannot be reached ({reason})", where=host, remedy="Start it, or mend PREFECT_API_URL."
        ) from None


def recorded_address(store: Store) -> str | None:
    try:
        record = ServerRecord(**json.loads(_record_path(store).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return record.api_url if is_alive(record.pid, record.started) else None


def _record_path(store: Store) -> Path:
    return prefect_home(store) / "server.json"
