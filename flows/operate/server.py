"""Where this workspace's Prefect server is, and the settings every process of ours gives Prefect.

Prefect reads its settings when it is first imported, so ``configure`` must run before that. Everything Prefect keeps
(its database, logs, settings) lives below the workspace, never in the user's home. ``headwater up`` writes
``prefect/server.json``; a run in the same workspace finds the server there, or at ``PREFECT_API_URL``.

A server of ours asks for a user and password, and answers the pages of its own origin only (``flows.operate.credentials``).
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from flows.operate.credentials import (
    AUTH_FILE,
    CLIENT_AUTH,
    auth_string,
    generate_auth,
    generated_auth,
    private_folder,
    use_auth,
)
from infra.errors import HeadwaterError
from infra.store.files import write_json
from infra.store.lease import is_alive
from infra.store.store import Store

HEALTH_TIMEOUT_S = 2.0
API_TIMEOUT_S = 15.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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


def configure(store: Store, api_url: str | None, *, serving: bool = False) -> None:
    """Set Prefect's environment for this process and its children. Values the user has set stay.

    Without an address Prefect starts a server of its own for as long as it needs one. That one, and one that we are about
    to start (``serving``), ask for the workspace's password too.
    """
    home = private_folder(Path(os.environ.get("PREFECT_HOME") or prefect_home(store))).resolve()
    for name, value in settings(home).items():
        os.environ.setdefault(name, value)
    serving = serving or api_url is None
    # The secret is the workspace's, wherever Prefect keeps its own files: whoever works there looks for it there.
    secret = auth_string() or (generate_auth(prefect_home(store)) if serving else _own_auth(store, api_url))
    use_auth(secret, serving=serving)
    if api_url is not None:
        os.environ["PREFECT_API_URL"] = api_url
    else:
        os.environ.pop("PREFECT_API_URL", None)
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"


def known_server(store: Store) -> str | None:
    """The API address that this workspace's runs use, whether it answers or not; from now on with our credentials."""
    address = os.environ.get("PREFECT_API_URL") or recorded_address(store)
    if address and auth_string() is None:
        use_auth(_own_auth(store, address))
    return address


def _own_auth(store: Store, api_url: str | None) -> str | None:
    """The generated password, if this is the server that it was generated for."""
    record = recorded_address(store)
    if record is None or api_url is None or _place(record) != _place(api_url):
        return None
    return generated_auth(prefect_home(store))


def _place(api_url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(api_url)
    return "loopback" if parts.hostname in LOOPBACK else parts.hostname, parts.port


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
        # Prefect's default lets the pages of every origin call the API. A page of the server itself needs no permission, and
        # finds the API beside itself: also through a tunnel or a proxy.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",
        "PREFECT_UI_API_URL": "/api",
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
    address = known_server(store)
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


def await_server(store: Store, seconds: float) -> None:
    """Give a server that is being started its time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not ((address := known_server(store)) and answers(address)):
        time.sleep(0.3)


def answers(api_url: str, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return False


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
    """The API address that ``headwater up`` left, if its process lives."""
    try:
        record = ServerRecord(**json.loads(_record_path(store).read_text()))
    except (FileNotFoundError, PermissionError, ValueError, TypeError):  # none, or another user's
        return None
    return record.api_url if is_alive(record.pid, record.started) else None


def _record_path(store: Store) -> Path:
    return prefect_home(store) / "server.json"
