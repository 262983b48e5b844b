"""The tab Runs: datasets, runs, funnels, and curves of trainings that are done or still go on."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flows.web.site import Site
from infra.runs import RunRecord
from infra.store.lease import Lease
from infra.store.store import Store
from tests.flows.web.sites import ask, client_of
from tests.flows.workspaces import make_workspace, publish, trained


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("runs")
    store = make_workspace(folder, whole=False)
    publish(store, trained(folder / "new", store.get_ref("ingest", "latest")))
    return store


@pytest.fixture(scope="module")
def client(store: Store) -> TestClient:
    return client_of(Site(store, {}))


def test_datasets_name_what_they_were_made_from(client: TestClient, store: Store) -> None:
    first, second = ask(client, "datasets")
    assert (first["name"], second["name"]) == ("ingest", "pretrain")
    assert second["inputs"] == [{"role": "shards", "name": "ingest", "fingerprint": first["fingerprint"]}]
    assert first["labels"] == ["latest", "small"] and (first["curves"], second["curves"]) == (False, True)
    store.drop_ref("ingest", "small")
    assert ask(client, "datasets")[0]["labels"] == ["latest"], "labels move, though manifests never change"
    store.set_ref("ingest", "small", first["fingerprint"])


def test_curves_of_a_training_and_what_came_after_a_step(client: TestClient) -> None:
    whole = ask(client, "curves", dataset="pretrain")
    assert whole["series"]["loss"] == [[1, 5.0], [2, 2.5], [3, None], [4, 1.25]]
    assert (whole["running"], whole["total_steps"], whole["last_step"]) == (False, 4, 4)
    assert whole == ask(client, "curves", dataset="pretrain@small") == ask(client, "curves", dataset=whole["dataset"])
    assert ask(client, "curves", dataset="pretrain", since=3)["series"]["loss"] == [[4, 1.25]]
    assert ask(client, "curves", dataset="pretrain", since=4)["series"] == {}


def test_a_training_that_runs_is_followed(client: TestClient, store: Store) -> None:
    fingerprint = "2" * 12
    work, data = store.work_root("pretrain", fingerprint), store.dataset_root("pretrain", fingerprint) / "data"
    work.mkdir(parents=True)
    data.mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 1.0, "tokens": 9}) + "\n" for step in range(1, 40_001)]
    lines[20_000] = json.dumps({"step": 20_000, "loss": 9.0, "tokens": 9, "held": "spike"}) + "\n"
    (data / "metrics.jsonl").write_text("".join(lines) + '{"step": 40001, "lo')
    (work / "events.jsonl").write_text(json.dumps({"type": "progress", "done": 40_000, "total": 90_000}) + "\n")
    lease = Lease(store.work_url("pretrain", fingerprint))
    lease.acquire(wait=False)
    with lease:
        found = ask(client, "curves", dataset=f"pretrain/{fingerprint}")
        assert (found["running"], found["total_steps"]) == (True, 90_000)
        assert 1500 < len(found["series"]["loss"]) <= 2002 and found["not_applied"] == [20_000]
        late = ask(client, "curves", dataset=f"pretrain/{fingerprint}", since=30_000)
        assert [step for step, _ in late["series"]["loss"]] == list(range(30_001, 40_001))
        rows = [row for row in ask(client, "datasets") if row["state"] == "running"]
        assert [(row["fingerprint"], row["curves"], row["progress"]["done"]) for row in rows] == [
            (fingerprint, True, 40_000)
        ]
    assert client.get("/api/curves", params={"dataset": f"pretrain/{fingerprint}"}).status_code == 404


def test_runs_and_their_funnels(client: TestClient, store: Store) -> None:
    record = RunRecord.start(store, "small")
    ingest = store.get_ref("ingest", "latest")
    record.event("stage_published", stage="ingest", fingerprint=ingest.manifest.fingerprint, seconds=1.0)
    (run,) = ask(client, "runs")
    assert (run["id"], run["state"], run["progress"]["run"]) == (record.id, "running", record.id)
    record.event("run_ended", state="completed")
    (run,) = ask(client, "runs")
    assert (run["state"], run["progress"]) == ("completed", None) and "argv" not in run
    assert run["stages"]["ingest"]["fingerprint"] == ingest.manifest.fingerprint
    view = ask(client, "funnel", run=record.id)
    (row,) = view["stages"]
    assert row["incoming"] == row["kept"] + sum(row["dropped"].values()) and row["dropped"] == {"http_status": 1}
    assert {each["group"] for each in view["by_source"]} == {"web", "notes"}
    assert ask(client, "funnel")["stages"] == view["stages"], "the label's"


@pytest.mark.parametrize(
    ("path", "parameters", "status"),
    [
        ("curves", {"dataset": "../../etc"}, 400),
        ("curves", {"dataset": "/etc/passwd"}, 400),
        ("curves", {"dataset": "pretrain/../../x"}, 400),
        ("curves", {"dataset": "pretrain@../latest"}, 400),
        ("curves", {"dataset": "pretrain\0"}, 400),
        ("curves", {"dataset": "ingest"}, 404),
        ("curves", {"dataset": "nothing"}, 404),
        ("curves", {"dataset": "pretrain", "since": -1}, 400),
        ("curves", {}, 400),
        ("funnel", {"run": "../datasets"}, 400),
        ("funnel", {"run": "small-20260101-000000-ab"}, 404),
        ("funnel", {"label": "../x"}, 400),
    ],
)
def test_what_is_not_there(client: TestClient, path: str, parameters: dict[str, Any], status: int) -> None:
    answer = client.get(f"/api/{path}", params=parameters)
    assert answer.status_code == status and answer.json()["error"], answer.text


def test_a_spoilt_manifest_hides_no_other(client: TestClient, store: Store, tmp_path: Path) -> None:
    spoilt = store.dataset_root("quality", "3" * 12)
    spoilt.mkdir(parents=True)
    (spoilt / "manifest.json").write_text("{")
    assert {row["name"] for row in ask(client, "datasets")} == {"ingest", "pretrain"}
