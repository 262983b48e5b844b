"""Reports on the server: for who has the password or a page's key, nothing but reports, and nothing that runs."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from flows.operate.report_pages import link_to, mount_reports, served
from infra.store.store import Store
from tests.support import write_dataset

SECRET = "operator:9f2c-not-to-be-seen"
FINGERPRINT = "0" * 12


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A workspace with one published report, one page of a run, and a file that is none of anybody's business."""
    for name in ("HEADWATER_API_AUTH_FILE", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    store = Store.at(tmp_path / "w")
    write_dataset(store.dataset_root("report", FINGERPRINT), "report", {"data/report.html": b"<p>published"})
    store.set_ref("report", "demo", FINGERPRINT)
    (store.home / "reports").mkdir()
    (store.home / "reports" / "demo-20261127-193007-c092.html").write_text("<p>of a run")
    (store.home / "secret.html").write_text("secret")
    monkeypatch.setenv("HEADWATER_HOME", store.address)
    return store


@pytest.fixture
def client(store: Store) -> TestClient:
    async def ui(request: object) -> PlainTextResponse:
        return PlainTextResponse("the UI")

    app = Starlette(routes=[Route("/{path:path}", ui)])
    mount_reports(app)
    return TestClient(app)


@pytest.mark.parametrize("name", ["demo", FINGERPRINT])
def test_a_report_is_found_by_label_and_fingerprint_and_can_run_nothing(client: TestClient, name: str) -> None:
    answer = client.get(f"/reports/{name}")
    assert answer.status_code == 200 and answer.text == "<p>published"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy and "script-src" not in policy
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_of_runs_and_the_list(client: TestClient) -> None:
    assert client.get("/reports/demo-20261127-193007-c092").text == "<p>of a run"
    listed = client.get("/reports/").text
    assert f"/reports/{FINGERPRINT}" in listed and "/reports/demo-20261127-193007-c092" in listed
    assert client.get("/anything").text == "the UI"


@pytest.mark.parametrize(
    "name",
    [
        "secret", "..%2fsecret", "%2e%2e%2fsecret", "..%5csecret", "refs", ".", "manifest.json", "x" * 200,
        "demo%00", "%2fetc%2fpasswd", "000000000000%2fmanifest.json", "ffffffffffff",
    ],
)  # fmt: skip
def test_nothing_else_of_the_workspace_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/reports/{name}")
    assert answer.status_code == 404 or answer.text == "the UI"
    assert "secret" not in answer.text.replace(name, "")


@pytest.mark.parametrize("path", ["/reports/demo", "/reports/", f"/reports/{FINGERPRINT}"])
def test_the_password_is_asked_for(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", SECRET)
    refused = client.get(path)
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    assert "published" not in refused.text
    for wrong in ("operator:guess", "", SECRET[:-1], "ünïcode:x"):
        header = {"Authorization": f"Basic {base64.b64encode(wrong.encode()).decode()}"}
        assert client.get(path, headers=header).status_code == 401
    assert client.get(path, headers={"Authorization": "Basic !!"}).status_code == 401
    assert client.get(path, headers={"Authorization": SECRET}).status_code == 401
    good = {"Authorization": f"Basic {base64.b64encode(SECRET.encode()).decode()}"}
    assert client.get(path, headers=good).status_code == 200


def test_a_key_opens_its_own_page_until_the_password_changes(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    link = link_to("demo")
    assert SECRET.split(":")[1] not in link
    assert client.get(link).text == "<p>published"
    key = link.partition("?")[2]
    assert client.get(f"/reports/{FINGERPRINT}?{key}").status_code == 401
    assert client.get(f"/reports/?{key}").status_code == 401
    assert client.get("/reports/demo?key=").status_code == 401
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "operator:another")
    assert client.get(link).status_code == 401


def test_without_a_password_a_link_carries_no_key(store: Store) -> None:
    assert link_to("demo") == "/reports/demo"


def test_a_link_that_leads_out_of_the_workspace_is_not_followed(client: TestClient, store: Store) -> None:
    outside = store.home.parent / "outside.html"
    outside.write_text("outside")
    (store.home / "reports" / "linked.html").symlink_to(outside)
    (store.home / "reports" / "folder.html").mkdir()
    assert client.get("/reports/linked").status_code == 404
    assert client.get("/reports/folder").status_code == 404


def test_only_reading_is_answered(client: TestClient) -> None:
    assert client.post("/reports/demo").status_code == 405
    assert client.delete("/reports/demo").status_code == 405


@pytest.fixture
def server(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server as ``headwater up`` starts it, which asks for a password."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_AUTH_STRING": SECRET,
        "PREFECT_SERVER_API_AUTH_STRING": SECRET, "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "HEADWATER_HOME": store.address,
    }  # fmt: skip
    command = [sys.executable, "-m", "flows.operate.prefect_server", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/api/health", timeout=2)
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            yield address
        finally:
            process.terminate()
            process.wait(30)


PUBLISH = """
import sys
from flows.operate.artifacts import publish_report
from infra.store.store import Store
store = Store.at(sys.argv[1])
publish_report(store, {"report": store.get_ref("report", "demo")}, "demo-20261127-193007-c092")
"""


@pytest.mark.slow
@pytest.mark.prefect
def test_the_report_is_one_click_from_the_ui(server: str, store: Store, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {"PREFECT_API_URL": f"{server}/api", "PREFECT_API_AUTH_STRING": SECRET}
    environment["PREFECT_HOME"] = str(tmp_path / "client")
    subprocess.run([sys.executable, "-c", PUBLISH, store.address], env=environment, check=True, timeout=120)
    authorised = {"Authorization": f"Basic {base64.b64encode(SECRET.encode()).decode()}"}
    request = urllib.request.Request(
        f"{server}/api/artifacts/filter", b"{}", authorised | {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        [artifact] = json.load(response)
    assert artifact["key"] == "report" and artifact["type"] == "markdown"
    link = artifact["data"].partition("](")[2].rstrip(")")
    assert link.startswith(f"/reports/{FINGERPRINT}?key="), "relative: it works through tunnels too"
    with urllib.request.urlopen(server + link, timeout=30) as page:
        assert page.read() == b"<p>published"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server}/reports/{FINGERPRINT}", timeout=30)
    assert refused.value.code == 401
    assert served(f"{server}/api", FINGERPRINT) and not served(f"{server}/api", "ffffffffffff")
