"""What reaches the APIs, and what every answer carries."""

from pathlib import Path

import pytest

from flows.web.guard import Pace, digest
from flows.web.listen import read_keys, take_socket
from flows.web.site import ServeSettings, open_site
from infra.errors import ConfigError, InputError
from infra.store.store import Store
from tests.flows.web.sites import client_of, empty_site, site_with_models

KEY = "0123456789abcdef"


def test_the_server_answers_to_its_own_names_only(tmp_path: Path) -> None:
    client = client_of(empty_site(tmp_path))
    assert client.get("/api/site").status_code == 200
    assert client.get("/api/site", headers={"Host": "evil.example:8000"}).status_code == 421
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    behind = client_of(empty_site(tmp_path, names="lab.example"))
    proxied = {"Host": "lab.example", "Origin": "https://lab.example"}
    assert behind.get("/api/site", headers=proxied).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_origins_reach_no_api(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    client = client_of(empty_site(tmp_path))
    assert [client.get(path, headers=headers).status_code for path in ("/api/site", "/v1/models")] == [status] * 2


def test_keys_open_the_apis_and_annotators_only_the_comparisons(tmp_path: Path) -> None:
    site = empty_site(tmp_path, keys=frozenset({digest(KEY)}))
    object.__setattr__(site, "annotator", {"annas-token": "Anna"}.get)
    client = client_of(site)
    refused = client.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert client.get("/v1/models", headers={"Cookie": f"headwater_key={KEY}"}).status_code == 200
    others = 'settings={"a": [1, 2]}; @odd; '
    assert client.get("/v1/models", headers={"Cookie": f"{others}headwater_key={KEY}; x"}).status_code == 200
    assert client.get("/").status_code == 200
    theirs = client.get("/api/site", headers={"X-Annotator": "annas-token"}).json()
    assert (theirs["models"], theirs["tabs"]) == ([], {"compare": True})
    assert client.get("/v1/models", headers={"X-Annotator": "annas-token"}).status_code == 403
    found = [client.get("/v1/models", headers={"Authorization": f"Bearer {guess:016}"}) for guess in range(12)]
    assert {answer.status_code for answer in found[:8]} == {401}
    assert found[-1].status_code == 429
    assert int(found[-1].headers["Retry-After"]) >= 1


def test_a_body_has_a_limit_whether_it_is_announced_or_not(tmp_path: Path) -> None:
    client = client_of(empty_site(tmp_path, max_body_bytes=2000))
    assert client.post("/v1/models", content=b"x" * 2001).status_code == 413
    assert client.post("/v1/models", content=b"x" * 1999).status_code == 405
    assert client.post("/v1/models", content=b"", headers={"Content-Length": "-5"}).status_code == 413


def test_every_answer_carries_the_policy(tmp_path: Path) -> None:
    client = client_of(empty_site(tmp_path))
    for path in ("/", "/api/site", "/nothing", "/v1/models/none"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/%2e%2e/%2e%2e/app.py").status_code == 404


def test_a_defect_is_told_without_its_trace(tmp_path: Path) -> None:
    site = empty_site(tmp_path)
    object.__setattr__(site, "annotator", {}.__getitem__)
    answer = client_of(site).get("/api/site")
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server made an error", "where": "", "remedy": "Its log says which."}
    assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_a_client_has_a_pace() -> None:
    pace = Pace(rate=100)
    assert [pace.wait("a") for _ in range(200)] == [0.0] * 200
    assert 0 < pace.wait("a") <= 0.01
    assert pace.wait("b") == 0


def test_a_folder_that_is_no_model_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer.json"), site_with_models(tmp_path / "made", {"plain": None}):
        folder = tmp_path / "made" / "plain"
        (folder / "tokenizer.json").unlink()
        with open_site(Store.at(tmp_path / "workspace"), [str(folder)], "latest", ServeSettings()):
            pass


def test_beyond_loopback_only_with_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this machine alone"):
        take_socket("0.0.0.0", 0, frozenset())
    with take_socket("127.0.0.1", 0, frozenset()) as taken, pytest.raises(InputError, match="cannot listen on port"):
        take_socket("127.0.0.1", taken.getsockname()[1], frozenset())
    path = tmp_path / "keys"
    path.write_text("# ours\nshort\n")
    with pytest.raises(InputError, match="too short"):
        read_keys(path)
    path.write_text("schlüssel-von-überlingen\n")
    with pytest.raises(InputError, match="that no header carries"):
        read_keys(path)
    path.write_text(f"# ours\n{KEY}\n")
    assert read_keys(path) == {digest(KEY)}
