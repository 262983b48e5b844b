"""Which run came before, and what a run made: from the records of runs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import build_app
from flows.provenance.run_history import datasets_of_run, run_before, store_of
from infra.runs import RunRecord
from infra.store.dataset import Dataset
from infra.store.files import write_json
from infra.store.manifest import Provenance
from infra.store.store import Store
from tests.support import write_dataset


def built(store: Store, stage: str, number: int, run: str) -> Dataset:
    """A published dataset of a run."""
    fingerprint = f"{number:012x}"
    root = store.dataset_root(stage, fingerprint)
    write_dataset(root, stage, {"data/x.txt": f"{stage} {number}".encode()})
    manifest = json.loads((root / "manifest.json").read_text())
    made = Provenance(run=run, started=number, ended=number + 1).model_dump()
    (root / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": fingerprint, "provenance": made}))
    return Dataset.open(str(root))


def ran(
    store: Store, run: str, published: dict[str, int], skipped: dict[str, int] | None = None, *,
    recipe: str = "demo", state: str = "completed",
) -> dict[str, Dataset]:  # fmt: skip
    record = RunRecord(run, store.run_url(run))
    plan = [
        {"stage": stage, "action": "SKIP", "fingerprint": f"{number:012x}"} for stage, number in (skipped or {}).items()
    ]
    write_json(f"{record.root}/plan.json", {"recipe": recipe, "stages": plan})
    found = {}
    for stage, number in published.items():
        found[stage] = built(store, stage, number, run)
        record.event("stage_published", stage=stage, fingerprint=f"{number:012x}")
        record.event("warning", stage=stage, message="said again")
    if state:
        record.event("run_ended", state=state)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path)


def test_the_last_completed_run_of_the_same_recipe_is_the_one_before(store: Store) -> None:
    ran(store, "demo-20261101-000000-aaaa", {"ingest": 1, "dedup": 2})
    ran(store, "demo-20261102-000000-bbbb", {"ingest": 3, "dedup": 4})
    ran(store, "demo-20261103-000000-cccc", {"ingest": 5, "dedup": 6}, state="failed")
    ran(store, "other-20261104-000000-dddd", {"ingest": 7, "dedup": 8}, recipe="other")
    ran(store, "demo-20261105-000000-eeee", {"dedup": 9}, {"ingest": 5})
    now = ran(store, "demo-20261106-000000-ffff", {"ingest": 20, "dedup": 21}, state="")  # still running
    before = run_before(store, now)
    assert before is not None and before.name == "demo-20261105-000000-eeee"
    assert {name: dataset.manifest.fingerprint for name, dataset in before.datasets.items()} == {
        "ingest": f"{5:012x}", "dedup": f"{9:012x}",
    }  # fmt: skip
    later = ran(store, "demo-20261107-000000-0000", {"ingest": 30}, {"dedup": 21})
    assert run_before(store, now) == before, "what came later is not before"
    assert later


def test_a_run_of_all_stages_is_preferred_to_a_later_one_of_some(store: Store) -> None:
    ran(store, "demo-20261101-000000-aaaa", {"ingest": 1, "dedup": 2})
    ran(store, "demo-20261102-000000-bbbb", {"dedup": 4})
    now = ran(store, "demo-20261103-000000-cccc", {"ingest": 5, "dedup": 6, "report": 7})
    before = run_before(store, now)
    assert before is not None and before.name == "demo-20261101-000000-aaaa"


def test_the_crawl_before_is_a_run_of_the_same_recipe(store: Store) -> None:
    ran(store, "CC-MAIN-2026-42-20261101-000000-aaaa", {"ingest": 1}, recipe="crawl")
    now = ran(store, "CC-MAIN-2026-46-20261102-000000-bbbb", {"ingest": 2}, recipe="crawl")
    before = run_before(store, now)
    assert before is not None and before.name.startswith("CC-MAIN-2026-42")


def test_a_first_run_has_none_before_and_collected_datasets_are_left_out(store: Store) -> None:
    found = ran(store, "demo-20261101-000000-aaaa", {"ingest": 1, "dedup": 2})
    assert run_before(store, found) is None and run_before(store, {}) is None
    assert store_of(found) == store
    Path(found["dedup"].root, "manifest.json").unlink()
    assert list(datasets_of_run(store, "demo-20261101-000000-aaaa")) == ["ingest"]


def test_a_report_is_of_the_run_that_was_named_not_of_the_newest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ran(store, "demo-20261101-000000-aaaa", {"ingest": 1})
    ran(store, "demo-20261102-000000-bbbb", {"ingest": 3})
    store.set_ref("ingest", "demo", f"{3:012x}")
    words = ["report", "demo-20261101-000000-aaaa", "--workspace", store.address, "--json"]
    page = Path(json.loads(CliRunner().invoke(build_app(words), words).stdout)["report"]).read_text()
    assert f"{1:012x}" in page and f"{3:012x}" not in page
    words = ["report", "demo", "--workspace", store.address, "--json"]
    page = Path(json.loads(CliRunner().invoke(build_app(words), words).stdout)["report"]).read_text()
    assert "Since the last run" in page and "demo-20261101-000000-aaaa" in page
