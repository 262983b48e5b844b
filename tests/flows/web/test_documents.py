"""The tab Documents: what is found, what one document went through, and what a threshold would take."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from flows.provenance.search import search
from flows.provenance.trace import trace_step
from flows.provenance.wanted import Wanted
from flows.recipe import load_recipe
from flows.stages import document_stages
from flows.web.site import Site
from infra.store.store import Store
from pipeline import quality
from pipeline.quality.config import OwnRule
from tests.flows.web.sites import ask, client_of
from tests.flows.workspaces import HOSTILE, NEAR, NOTES, PAGES, make_workspace, selection
from tests.pipeline.dedup.corpora import kept, ledger
from tests.support import run_shard_stage


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_workspace(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def client(store: Store) -> TestClient:
    return client_of(Site(store, {}))


def found(client: TestClient, **parameters: Any) -> list[Any]:
    documents: list[Any] = ask(client, "documents", **{"limit": 200, **parameters})["documents"]
    return documents


def one(client: TestClient, name: str) -> Any:
    (row,) = found(client, url=name)
    return ask(client, f"documents/{row['id']}")


# ---- search ---------------------------------------------------------------------------------------------------------


def test_every_record_is_found_once_page_by_page(client: TestClient) -> None:
    total = PAGES + 1 + NOTES + len(HOSTILE) + 2
    pages, after = [], ""
    while True:
        page = ask(client, "documents", limit=7, after=after)
        pages += page["documents"]
        assert page["of"] == total and not page["partial"]
        if (after := page["next"]) is None:
            break
    assert len({row["id"] for row in pages}) == len(pages) == total


def test_what_is_asked_for_must_all_be_met(client: TestClient) -> None:
    assert len(found(client, domain="pages.example")) == len(found(client, source="web")) == PAGES + 1
    assert len(found(client, domain="example")) == len(found(client))
    assert found(client, domain="ages.example") == []
    assert [row["url"] for row in found(client, url="PAGES.example/3")] == ["http://pages.example/3"]
    (gone,) = found(client, rule="http_status")
    assert gone["fate"] == {"stage": "ingest", "verdict": "dropped", "rule": "http_status"}
    assert found(client, fate="dropped", stage="ingest") == [gone]
    few = found(client, rule="some_words")
    assert 5 <= len(few) <= 15 and {row["fate"]["stage"] for row in few} == {"quality"}
    assert few == found(client, **{"max.words": 11})
    assert len(found(client, language="en", **{"min.words": 12})) == NOTES + len(HOSTILE) + 2 - len(few)
    assert {row["fate"]["verdict"] for row in found(client, fate="kept")} == {"kept"}
    assert found(client, fate="failed") == found(client, language="de") == found(client, rule="none_such") == []


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("bidi", "nul")])
def test_words_are_looked_for_as_they_stand(client: TestClient, name: str) -> None:
    """Patterns, quotes and controls mean nothing, in either case."""
    part = HOSTILE[name][:60]
    assert [row["url"] for row in found(client, text=part)] == [f"http://notes.example/{name}"]
    (row,) = found(client, text=part.upper())
    assert part in row["excerpt"] and len(row["excerpt"]) < 300
    assert found(client, text=".*") == found(client, text="%")[1:] == []


def test_controls_that_extraction_takes_out_are_looked_for_in_vain(client: TestClient) -> None:
    for name in ("bidi", "nul"):
        assert found(client, text=HOSTILE[name][:20]) == []
        assert [row["url"] for row in found(client, text=HOSTILE[name][-30:])] == [f"http://notes.example/{name}"]
    assert found(client, url="\x00") == found(client, source="\u202e") == []


def test_a_search_stops_when_its_time_is_over_and_goes_on_from_there(store: Store) -> None:
    stages, attributes = document_stages(store, "latest"), store.get_ref("attributes", "latest")
    seen: list[str] = []
    after, turns = "", 0
    while True:
        page = search(stages, attributes, Wanted(text="the "), after=after, limit=200, seconds=0.0)
        seen += [row["id"] for row in page["documents"]]
        turns += 1
        if page["next"] is None:
            break
        assert page["partial"] and page["next"] != after
        after = page["next"]
    whole = search(stages, attributes, Wanted(text="the "), limit=200, seconds=60.0)
    assert turns > 1 and seen == [row["id"] for row in whole["documents"]]


@pytest.mark.parametrize(
    "parameters",
    [
        {"after": "../../etc/passwd"},
        {"after": "0" * 12 + ".0.0"},
        {"after": "x"},
        {"limit": 0},
        {"limit": 201},
        {"limit": "many"},
        {"min.nothing": 1},
        {"min.words": "many"},
        {"max.words": "nan"},
        {"min.id": 1},
        {"label": "../../etc"},
        {"text": "x" * 2001},
    ],
)
def test_what_makes_no_sense_is_one_sentence(client: TestClient, parameters: dict[str, Any]) -> None:
    answer = client.get("/api/documents", params=parameters)
    assert answer.status_code == 400 and answer.json()["error"], answer.text


# ---- one document ---------------------------------------------------------------------------------------------------


def test_a_page_is_shown_as_crawled_extracted_and_redacted(client: TestClient) -> None:
    view = one(client, "pages.example/2")
    assert [stage["stage"] for stage in view["stages"]] == ["ingest", "quality", "dedup", "redact", "shards"]
    assert "<script>alert(2)</script>" in view["crawled"]["markup"]
    assert "anna2@mill-house.org" in view["crawled"]["text"] and "alert" not in view["crawled"]["text"]
    extracted, redacted = view["stages"][0], view["stages"][3]
    assert extracted["changes"] is None and "anna2@mill-house.org" in extracted["text"]
    gone = "".join(change["text"] for change in redacted["changes"] if change["kind"] == "delete")
    assert "anna2@mill-house.org" in gone
    rebuilt = "".join(change["text"] for change in redacted["changes"] if change["kind"] != "delete")
    assert rebuilt.split() == redacted["text"].split() and "mill-house" not in redacted["text"]
    assert view["stages"][1]["text"] is None
    tokens = view["tokens"]
    assert tokens["count"] == sum(row["end"] - row["start"] for row in tokens["rows"]) > 90


def test_the_steps_of_a_document_are_those_whose_batches_held_it(client: TestClient, store: Store) -> None:
    pretrain, shards = store.get_ref("pretrain", "latest"), store.get_ref("shards", "latest")
    for step in (1, 4):
        (first, *_) = trace_step(pretrain, shards, step)["documents"]
        tokens = ask(client, f"documents/{first['id']}")["tokens"]
        assert step in tokens["steps"] and tokens["model"] == "pretrain/111111111111"


def test_an_archive_that_is_gone_or_another_is_said(tmp_path: Path) -> None:
    client = client_of(Site(make_workspace(tmp_path, whole=False), {}))
    (row,) = found(client, url="pages.example/2")
    archive = tmp_path / "pages.warc.gz"
    data = archive.read_bytes()
    archive.write_bytes(data[:200] + bytes(len(data) - 200))
    assert "cannot be read" in ask(client, f"documents/{row['id']}")["crawled"]["unavailable"]
    archive.unlink()
    assert "not where it was" in ask(client, f"documents/{row['id']}")["crawled"]["unavailable"]


def test_twins_are_shown_with_their_difference(client: TestClient) -> None:
    views = [one(client, "twin-a"), one(client, "twin-b")]
    dropped = next(view for view in views if view["stages"][-1]["verdict"] == "dropped")
    survivor = next(view for view in views if view is not dropped)
    assert dropped["stages"][-1]["rule"] == "near_duplicate"
    (mine,), (theirs,) = dropped["duplicates"], survivor["duplicates"]
    assert (mine["id"], mine["relation"]) == (survivor["id"], "survivor")
    assert (theirs["id"], theirs["relation"]) == (dropped["id"], "dropped for it")
    assert 0.8 < mine["similarity"] < 1
    marked = {change["kind"]: change["text"].strip() for change in mine["difference"] if change["kind"] != "equal"}
    assert set(marked.values()) == {"word60", "another"}
    assert marked["delete"] in dropped["stages"][0]["text"].split() and NEAR.split()[0] == "word0"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_are_texts_like_others(client: TestClient, name: str) -> None:
    (row,) = found(client, url=f"notes.example/{name}")
    answer = client.get(f"/api/documents/{row['id']}")
    assert (
        answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"
    )
    assert len(answer.content) < 3_000_000
    view = answer.json()
    assert view["stages"][0]["text"].split()[-1] == HOSTILE[name][:200_000].split()[-1]
    assert view["stages"][0]["cut"] is view["crawled"]["cut"] is (name == "long")
    if name != "long":
        assert json.loads(view["crawled"]["text"])["text"] == HOSTILE[name]


@pytest.mark.parametrize("identity", ["..%2f..%2fmanifest.json", "%2e%2e", "0" * 32, "x" * 32, "a/b", "a'--", "%00"])
def test_what_is_no_document_is_not_found(client: TestClient, identity: str) -> None:
    answer = client.get(f"/api/documents/{identity}")
    assert answer.status_code == 404 and answer.json()["error"], answer.text


# ---- thresholds -----------------------------------------------------------------------------------------------------


def test_a_histogram_counts_every_document_once(client: TestClient) -> None:
    view = ask(client, "histogram", attribute="words", bins=12)
    rows = view["bins"]
    assert sum(row["kept"] + row["dropped"] for row in rows) == view["total"] == view["of"] == NOTES + PAGES + 2 + 6
    assert sum(row["dropped"] for row in rows) == len(found(client, stage="quality"))
    assert all(low["high"] == high["low"] for low, high in itertools.pairwise(rows)) and len(rows) == 12
    assert rows[-1]["high"] > 1_000_000 > rows[-2]["high"], "one giant does not flatten the others"
    assert view["whole"] and not ask(client, "histogram", attribute="mean_word_length")["whole"]
    (web,) = ask(client, "histogram", attribute="language", source="web")["bins"] or [None]
    assert web is None
    (english,) = ask(client, "histogram", attribute="language")["bins"]
    assert english["value"] == "en"
    kinds = {row["name"]: row for row in ask(client, "attributes")}
    assert kinds["words"]["max"] == rows[-1]["high"] and kinds["language"]["kind"] == "category" and "id" not in kinds


@pytest.mark.parametrize(
    ("attribute", "at", "keep"),
    [
        ("words", "30", "above"),
        ("words", "29.5", "above"),
        ("words", "30.5", "below"),
        ("mean_word_length", "4.7", "below"),
        ("language", "en", "is_not"),
        ("words", "1e9", "below"),
    ],
)
def test_the_line_of_yaml_drops_exactly_what_was_counted(
    client: TestClient, store: Store, tmp_path: Path, attribute: str, at: str, keep: str
) -> None:
    view = ask(client, "threshold", attribute=attribute, at=at, keep=keep)
    assert not view["partial"] and view["note"] is None
    given = yaml.safe_load(view["yaml"])["stages"]
    others: dict[str, Any] = {name: {} for name in ("sample", "ingest", "classifier", "attributes")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"recipe": "small", "stages": others | given}))
    rules = load_recipe(str(tmp_path / "recipe.yaml")).node("quality").config.model_dump()["rules"]
    before = store.get_ref("quality", "latest")
    inputs = {name: store.get_ref(name, "latest") for name in ("ingest", "attributes")}
    after = run_shard_stage(quality.STAGE, selection(*(OwnRule(**rule) for rule in rules)), inputs, tmp_path / "q")
    gone = kept(before) - kept(after)
    assert attribute != "words" or "." not in rules[-1]["expression"], "a count has no fractions"
    assert len(gone) == view["goes"] and len(kept(after)) == view["stays"] and kept(after) <= kept(before)
    assert {bytes.fromhex(row["id"]) for row in view["examples"]} <= gone
    assert {ledger(after)[identity]["rule"] for identity in gone} <= {rules[-1]["name"]}
    assert all(row["url"].startswith("http") for row in view["examples"])


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"attribute": "nothing", "at": "1"}, 404),
        ({"attribute": "__import__('os')", "at": "1"}, 404),
        ({"attribute": "words", "at": "1 or words"}, 400),
        ({"attribute": "words", "at": "nan"}, 400),
        ({"attribute": "words", "at": "1", "keep": "is"}, 400),
        ({"attribute": "language", "at": "en", "keep": "above"}, 400),
        ({"attribute": "language", "at": "", "keep": "is"}, 400),
    ],
)
def test_a_threshold_that_is_none(client: TestClient, parameters: dict[str, str], status: int) -> None:
    assert client.get("/api/threshold", params=parameters).status_code == status


def test_quotes_in_a_value_stay_a_value(client: TestClient) -> None:
    view = ask(client, "threshold", attribute="language", at="e'n\" or words > 1", keep="is")
    assert view["goes"] + view["stays"] + view["already"] == view["of"]
    assert OwnRule(**yaml.safe_load(view["yaml"])["stages"]["quality"]["rules"][-1]).expression == view["expression"]


def test_an_empty_workspace_says_so(tmp_path: Path) -> None:
    client = client_of(Site(Store.at(tmp_path), {}))
    assert ask(client, "documents")["documents"] == []
    assert client.get("/api/attributes").status_code == client.get(f"/api/documents/{'0' * 32}").status_code == 404
