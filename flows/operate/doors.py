"""What stands in front of Prefect's server: a look at the name it is called by, and the page that signs a person in.

* ``AllowedHosts``. A page elsewhere can point a name of its own at this machine's loopback interface (DNS rebinding) and is
  then of the same origin as the server. It cannot hide the name: a request for another host than the server's is refused.
  Where the server listens for other machines, its names are not known here and none is refused, unless
  ``HEADWATER_ALLOWED_HOSTS`` lists them; behind a proxy on this machine that hands on the public name, it lists that one.
* ``/sign-in#user:password``. The part after ``#`` is never sent: the page puts it where Prefect's UI keeps what a person
  would have typed, and goes on to the UI. ``headwater up`` prints such a link on a terminal, and nowhere else.
"""

import base64
import hashlib
from collections.abc import Collection
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
SIGN_IN = "/sign-in"
SCRIPT = """
const secret = decodeURIComponent(location.hash.slice(1));
if (secret) localStorage.setItem("prefect-password", btoa(secret));
location.replace("/");
"""
PAGE = f'<!doctype html><meta charset="utf-8"><title>Headwater</title><script>{SCRIPT}</script>'
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'sha256-"
    + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    + "'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


def allowed_names(host: str, listed: str) -> frozenset[str] | None:
    """The names a server that listens on ``host`` answers to; None for any."""
    names = frozenset(name.strip().lower() for name in listed.split(",") if name.strip())
    if host in LOCAL_NAMES | {"::1"}:
        return names | LOCAL_NAMES
    return names | LOCAL_NAMES | {host.lower()} if names else None


class AllowedHosts:
    """Refuses requests that are not for one of these names, websockets included."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or host_of(scope) in self.names:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            text = "This server does not answer to that name; HEADWATER_ALLOWED_HOSTS lists those it has.\n"
            await PlainTextResponse(text, status_code=421)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "not a name of this server"})


def host_of(scope: Scope) -> str:
    """The host a request names, without its port."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    named = headers.get(b"host", b"").decode("latin-1").lower()
    if named.startswith("["):
        return named.split("]")[0] + "]"
    return named.split(":")[0].rstrip(".")


def add_doors(app: Starlette, names: frozenset[str] | None) -> ASGIApp:
    """What is to be served instead of a server's application: the same with both in front of it."""
    app.router.routes.insert(0, Route(SIGN_IN, _sign_in))  # before the UI, which answers every path
    return app if names is None else AllowedHosts(app, names)


async def _sign_in(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE, headers=HEADERS)


def sign_in_link(ui: str, secret: str) -> str:
    return f"{ui}{SIGN_IN}#{quote(secret, safe=':')}"
