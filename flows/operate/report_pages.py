"""Report pages over HTTP, on the workspace's own server, so that they are one click from the runs.

    /reports/               what there is, newest first
    /reports/<name>         the report of a label (a recipe), of a fingerprint, or a page a run has left in ``reports/``

Nothing but reports is served: a name is a word, and is looked for in two places of the workspace. Pages hold text of the
crawl, so each is answered with a policy that runs no script, loads nothing and keeps it from the UI's own storage.

Whoever has the server's password gets in: as HTTP's basic authentication, for which a browser asks, or by the key in a
link. A key opens one page; it is made of the page's name with the password, and is dead when the password is changed.
Links stand in artifacts, which nobody reads without the password either.
"""

import base64
import binascii
import hmac
import html
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.operate.credentials import SERVER_AUTH, auth_string
from flows.report import FOLDER, PAGE
from infra.errors import HeadwaterError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from infra.store.store import Store

MOUNT = "/reports"
HEADERS = {
    # The page is in an origin of its own ("sandbox"), without scripts: it cannot reach what the UI keeps in the browser.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
    ),
    "Cache-Control": "private, no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
HEAD = (
    "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    "<style>:root { color-scheme: light dark } body { font: 15px/1.7 system-ui, sans-serif; margin: 2rem; }</style>"
)
LOOK_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FINGERPRINT = re.compile(r"[0-9a-f]{12}")


# ---- links ----------------------------------------------------------------------------------------------------------


def link_to(name: str) -> str:
    """The address of a page below the server's own, with the key that opens it where the server asks for a password."""
    secret = auth_string()
    return f"{MOUNT}/{name}" + (f"?key={_key(name, secret)}" if secret else "")


def served(api_url: str, name: str) -> bool:
    """Whether the server shows this page: one that was started otherwise knows no reports, or no such workspace."""
    address = api_url.rstrip("/").removesuffix("/api") + link_to(name)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=LOOK_S) as answer:
            # A server without reports answers any path with its UI.
            return bool(answer.status == 200 and answer.headers.get("X-Headwater-Report") == name)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError):
        return False


def _key(name: str, secret: str) -> str:
    return hmac.digest(secret.encode(), f"report page {name}".encode(), "sha256").hex()[:32]


# ---- pages ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportEntry:
    """A report in the list."""

    name: str
    about: str
    made: float | None
    """None of a page that a run has left: its name holds the time."""


def page_of(store: "Store", name: str) -> bytes | None:
    """The page of a name: a label's, a fingerprint's, or one below ``reports/``."""
    from infra.store.files import read_bytes

    if not _NAME.fullmatch(name):
        return None
    dataset = store.find("report", name) if _FINGERPRINT.fullmatch(name) else store.get_ref("report", name)
    address = dataset.url(PAGE) if dataset is not None else f"{store.address}/{FOLDER}/{name}.html"
    if store.is_local and not Path(address).resolve().is_relative_to(store.home.resolve()):
        return None  # a link that leads out of the workspace
    try:
        return read_bytes(address)
    except (FileNotFoundError, IsADirectoryError):
        return None


def entries(store: "Store") -> Iterator[ReportEntry]:
    """Every published report, and the pages that runs have left."""
    from infra.store.files import child_names

    labels = store.labels("report")
    for dataset in store.datasets("report"):
        fingerprint = dataset.manifest.fingerprint
        named = sorted(label for label, target in labels.items() if target == fingerprint)
        made = dataset.manifest.provenance
        yield ReportEntry(fingerprint, ", ".join(named) or made.run or fingerprint, made.ended)
    for file in child_names(f"{store.address}/{FOLDER}"):
        name = file.removesuffix(".html")
        if name != file and _NAME.fullmatch(name):
            yield ReportEntry(name, name, None)


def mount_reports(app: "Starlette") -> "Starlette":
    """The server with the pages, before the UI that answers every path."""
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route

    # The store, and pyarrow with it, is imported at the first look: most servers are never asked.
    pages = Starlette(routes=[Route("/", _list), Route("/{name}", _show)])
    app.router.routes.insert(0, Mount(MOUNT, app=pages, name="reports"))
    return app


def _show(request: "Request") -> "Response":
    name = request.path_params["name"]
    refused = _refusal(request, name)
    if refused is not None:
        return refused
    try:
        page = page_of(_store(), name)
    except HeadwaterError as error:  # a manifest that cannot be read
        return _answer(f"{HEAD}<p>{html.escape(str(error))}</p>".encode(), status=500)
    if page is None:
        return _answer(
            f"{HEAD}<p>There is no such report in this workspace. <a href='./'>What there is</a></p>".encode(),
            status=404,
        )
    return _answer(page, name=name)


def _list(request: "Request") -> "Response":
    refused = _refusal(request, "")
    if refused is not None:
        return refused
    found = sorted(entries(_store()), key=lambda entry: entry.made or 0.0, reverse=True)
    rows = "".join(
        f"<li><a href='{MOUNT}/{html.escape(entry.name)}'>{html.escape(entry.about)}</a> <small>{_when(entry)}</small></li>"
        for entry in found
    )
    return _answer(f"{HEAD}<title>Reports</title><h1>Reports</h1><ul>{rows or '<li>none yet</li>'}</ul>".encode())


def _when(entry: ReportEntry) -> str:
    if entry.made is None:
        return ""
    return f"{entry.name} {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(entry.made))}"


def _store() -> "Store":
    from flows.context import open_store

    return open_store(None)


def _refusal(request: "Request", name: str) -> "Response | None":
    """None if the visitor has the password or the page's key."""
    secret = os.environ.get(SERVER_AUTH) or auth_string()
    if not secret:
        return None
    key = request.query_params.get("key", "")
    if name and hmac.compare_digest(key.encode(), _key(name, secret).encode()):
        return None
    if hmac.compare_digest(_credentials(request.headers.get("Authorization", "")), secret.encode()):
        return None
    return _answer(f"{HEAD}<p>This page asks for the server's user and password.</p>".encode(), status=401)


def _credentials(header: str) -> bytes:
    scheme, _, encoded = header.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return b""


def _answer(content: bytes, *, status: int = 200, name: str = "") -> "Response":
    from starlette.responses import HTMLResponse

    headers = dict(HEADERS)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Headwater reports", charset="UTF-8"'
    if name:
        headers["X-Headwater-Report"] = name
    return HTMLResponse(content, status, headers)
