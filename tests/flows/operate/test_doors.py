"""A server answers to its own names only, and a link signs a person in without the server seeing the password."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.operate.doors import add_doors, allowed_names, sign_in_link


async def api(request: object) -> PlainTextResponse:
    return PlainTextResponse("data")


async def feed(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("data")


def client(host: str = "127.0.0.1", listed: str = "") -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", api), WebSocketRoute("/feed", feed)])
    return TestClient(add_doors(app, allowed_names(host, listed)), base_url="http://127.0.0.1:4200")


@pytest.mark.parametrize("name", ["127.0.0.1:4200", "localhost:5000", "LOCALHOST", "localhost.", "[::1]:4200"])
def test_a_loopback_server_answers_to_this_machine_and_its_tunnels(name: str) -> None:
    assert client().get("/api", headers={"host": name}).text == "data"


@pytest.mark.parametrize(
    "name", ["evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::2]", "a]:4200"]
)
def test_and_to_no_name_that_was_pointed_at_it(name: str) -> None:
    refused = client().get("/api", headers={"host": name})
    assert refused.status_code == 421 and "data" not in refused.text
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/feed", headers={"host": name}):
        pass


def test_names_for_a_proxy_and_for_other_machines() -> None:
    behind = client(listed="ui.example.org, other.example.org")
    assert behind.get("/api", headers={"host": "ui.example.org"}).status_code == 200
    assert behind.get("/api", headers={"host": "evil.example"}).status_code == 421
    assert allowed_names("0.0.0.0", "") is None, "its names are not known"
    assert client("10.0.0.9").get("/api", headers={"host": "server"}).status_code == 200
    named = client("10.0.0.9", "ui.example.org")
    assert named.get("/api", headers={"host": "10.0.0.9:4200"}).status_code == 200
    assert named.get("/api", headers={"host": "evil.example"}).status_code == 421


def test_the_sign_in_page_runs_its_own_script_alone_and_is_kept_nowhere() -> None:
    page = client().get("/sign-in")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "sha256-" in policy
    assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert (
        sign_in_link("http://127.0.0.1:4200", "headwater:a/b c#d")
        == "http://127.0.0.1:4200/sign-in#headwater:a%2Fb%20c%23d"
    )
