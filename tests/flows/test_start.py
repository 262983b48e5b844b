"""When a run becomes a flow run on a server that answers."""

import json
from pathlib import Path

import pytest

import flows.pipeline
import flows.start
from flows.execute import RunResult
from flows.recipe import Recipe, load_recipe
from flows.start import run_in_workspace
from infra.planning import StageSelection
from infra.store.store import Store


class FlowRun(Exception):
    """What the stand-in for the server's flow raises: the run became a flow run."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    def as_flow(*values: object) -> RunResult:
        raise FlowRun

    monkeypatch.setattr(flows.start, "running_server", lambda store: "http://127.0.0.1:1/api")
    monkeypatch.setattr(flows.start, "configure", lambda store, address: None)
    monkeypatch.setattr(flows.pipeline, "run_as_flow", as_flow)
    return Store.at(tmp_path / "workspace")


def recipe(folder: Path, **execution: object) -> Recipe:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(3)))
    sources = json.dumps([{"name": "web", "kind": "jsonl", "address": str(folder / "texts.jsonl")}])
    settings = json.dumps({"workers": 1, **execution})
    path = folder / "small.yaml"
    path.write_text(f"recipe: small\nexecution: {settings}\nstages:\n  ingest: {{sources: {sources}}}\n")
    return load_recipe(str(path))


def test_work_is_a_flow_run_and_a_run_without_work_is_none(tmp_path: Path, store: Store) -> None:
    with pytest.raises(FlowRun):
        run_in_workspace(recipe(tmp_path), StageSelection(), store, quiet=True)
    run_in_workspace(recipe(tmp_path), StageSelection(), store, use_prefect=False, quiet=True)
    again = run_in_workspace(recipe(tmp_path), StageSelection(), store, quiet=True)
    assert [outcome.action for outcome in again.outcomes] == ["SKIP"]
    assert (store.home / "runs" / again.run / "plan.json").exists()


@pytest.mark.parametrize(
    "how", [{"selection": StageSelection(force=("ingest",))}, {"use_prefect": True}, {"crawl": "A"}]
)
def test_what_is_asked_for_is_a_flow_run(tmp_path: Path, store: Store, how: dict[str, object]) -> None:
    run_in_workspace(recipe(tmp_path), StageSelection(), store, use_prefect=False, quiet=True)
    with pytest.raises(FlowRun):
        run_in_workspace(recipe(tmp_path), **{"selection": StageSelection(), **how}, store=store, quiet=True)  # type: ignore[arg-type]


def test_a_recipe_that_minds_edited_source_is_left_to_the_flow(tmp_path: Path, store: Store) -> None:
    run_in_workspace(recipe(tmp_path), StageSelection(), store, use_prefect=False, quiet=True)
    with pytest.raises(FlowRun):
        run_in_workspace(recipe(tmp_path, on_drift="rerun"), StageSelection(), store, quiet=True)
