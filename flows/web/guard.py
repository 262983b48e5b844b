"""What every request passes before anything of ours reads it, and what every answer carries.

* **Names.** A page elsewhere can point a name of its own at this machine (DNS rebinding). Listening on loopback, the server
  answers to its own names only.
* **Origins.** A browser says which page a request comes from. The APIs answer the server's own pages alone; other programs
  send no origin.
* **Keys.** With ``--api-key-file`` the APIs want ``Authorization: Bearer KEY``, or the cookie in which the page keeps the
  key. An annotator's token opens the comparisons, and no more. Wrong keys are counted: guessing is slow.
* **Amounts.** A body is read up to a limit, and one client makes so many requests a second.

Written against ASGI itself: a stream of tokens passes through without a task or a copy.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.operate.doors import allowed_names, host_of
from flows.web.site import Site

log = logging.getLogger(__name__)
COOKIE = "headwater_key"
ANNOTATOR_HEADER = "x-annotator"
COMPARE = "/api/compare/"
CLIENTS = 4096
"""Clients whose pace is remembered."""
WRONG_KEYS_PER_SECOND = 0.2
MOST_TAKEN, TAKEN_SECONDS = 256 << 20, 10
"""Bytes of a body that is too long, and seconds for them, that are taken and thrown away before its client is told."""
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass
class Pace:
    """A bucket for each client that fills with time: a burst of twice the rate, then the rate."""

    rate: float
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait(self, client: str, cost: float = 1.0) -> float:
        """Seconds until this client may go on; 0, and the cost is taken, if it may now."""
        now, burst = time.monotonic(), max(2 * self.rate, 10.0)
        left, then = self._left.pop(client, (burst, now))
        left = min(burst, left + (now - then) * self.rate)
        late = 0.0 if left >= cost else (cost - left) / self.rate
        self._left[client] = (left if late else left - cost, now)
        while len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return late


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, sentence: str, remedy: str = "", retry: float = 0) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.remedy, self.retry = status, sentence, remedy, retry


class Guard:
    """The application behind all of these."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app = app
        self.site = site
        self.names = allowed_names(site.settings.host, site.settings.names)
        self.requests = Pace(site.settings.requests_per_second)
        self.wrong_keys = Pace(WRONG_KEYS_PER_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        api = str(scope["path"]).startswith(("/api/", "/v1/"))
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *HEADERS]
                if api:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            self._check(scope, api)
            await self.app(scope, _limited(receive, scope, self.site.settings.max_body_bytes), send_guarded)
        except Refused as refused:
            if refused.status == 413:
                await _take_away(receive)
            if not started:
                await _refuse(refused, scope, send_guarded)
        except Exception:
            # A defect of ours: what its trace says of files and data is for the log, not for clients.
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await _refuse(Refused(500, "the server made an error", "Its log says which."), scope, send_guarded)

    def _check(self, scope: Scope, api: bool) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.names is not None and host_of(scope) not in self.names:
            raise Refused(
                421, "this server does not answer to that name", "HEADWATER_ALLOWED_HOSTS lists those it has."
            )
        if not api:
            return
        if not _own_origin(headers):
            raise Refused(403, "a page of another origin asks", "Open this server's own page.")
        client = (scope.get("client") or ("", 0))[0]
        if late := self.requests.wait(client):
            raise Refused(429, "too many requests at once", "Wait a little.", late)
        if self.site.settings.keys:
            self._check_key(str(scope["path"]), headers, client)

    def _check_key(self, path: str, headers: Mapping[str, str], client: str) -> None:
        token = headers.get(ANNOTATOR_HEADER, "")
        given = _bearer(headers) or _cookie(headers)
        if not given and not token:
            raise Refused(401, "this server wants a key", "Send `Authorization: Bearer KEY`.")
        if late := self.wrong_keys.wait(client, 0):
            raise Refused(429, "too many wrong keys", "Wait.", late)
        if given and any([hmac.compare_digest(digest(given), known) for known in self.site.settings.keys]):  # noqa: C419 (every key is compared: time tells nothing)
            return
        if token and self.site.annotator(token) is not None:
            if path.startswith(COMPARE) or path == "/api/site":
                return
            raise Refused(403, "an annotator's token opens the comparisons only", "Send a key.")
        if late := self.wrong_keys.wait(client):
            raise Refused(429, "too many wrong keys", "Wait.", late)
        raise Refused(401, "the key is wrong", "Send one of those in the server's key file.")


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _own_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of this server, or from no page."""
    origin = headers.get("origin")
    if origin is not None:
        return origin.partition("://")[2].lower() == headers.get("host", "").lower()
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _cookie(headers: Mapping[str, str]) -> str:
    # Other servers of this machine keep cookies of any form for the same host: only our own is looked at.
    given = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return next((unquote(value) for name, _, value in given if name == COOKIE), "")


def _limited(receive: Receive, scope: Scope, limit: int) -> Receive:
    """A body of no more bytes than the limit; what is announced longer is not read at all."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > limit):
            raise Refused(413, f"the request's body is longer than {limit:,} bytes", "Send less.")
    read = 0

    async def receive_limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise Refused(413, f"the request's body is longer than {limit:,} bytes", "Send less.")
        return message

    return receive_limited


async def _take_away(receive: Receive) -> None:
    """The rest of a body that is too long, as far as it comes soon: whoever is cut off while sending reads no answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TAKEN_SECONDS):
            taken = 0
            while taken < MOST_TAKEN:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _refuse(refused: Refused, scope: Scope, send: Send) -> None:
    body = json.dumps(error_body(str(scope["path"]), refused.status, refused.sentence, remedy=refused.remedy)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.retry:
        headers.append((b"retry-after", str(math.ceil(refused.retry)).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


def error_body(
    path: str, status: int, sentence: str, *, where: str = "", remedy: str = "", code: str | None = None
) -> dict[str, object]:
    """An error as the API of this path says it: OpenAI's shape under /v1, ours elsewhere."""
    if not path.startswith("/v1/"):
        return {"error": sentence, "where": where, "remedy": remedy}
    message = f"{sentence}. {remedy}".strip() if remedy else sentence
    kind = KINDS.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": where or None, "code": code}}
