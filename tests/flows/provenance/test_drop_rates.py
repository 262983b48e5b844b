"""Two snapshots of one source: what each dropped of it, and a warning where that moved."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import build_app
from flows.execute import RunResult
from flows.provenance.drop_rates import rate_changes
from flows.provenance.funnel import funnel_by_source, languages_through
from flows.recipe import load_recipe
from flows.start import run_in_workspace
from infra.planning import StageSelection
from infra.runs import read_events
from infra.store.store import Store
from tests.support import adopt_dataset


def snapshot(folder: Path, name: str, texts: int, empty: int) -> Path:
    path = folder / f"{name}.jsonl"
    rows = [{"text": f"Text {name} {number}" if number < texts else ""} for number in range(texts + empty)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(folder: Path, store: Store, archive: Path, tolerance: float = 0.05) -> RunResult:
    recipe = folder / "small.yaml"
    sources = json.dumps([{"name": "web", "kind": "jsonl", "address": str(archive)}])
    execution = json.dumps({"workers": 1, "drop_rate_tolerance": tolerance})
    recipe.write_text(f"recipe: small\nexecution: {execution}\nstages:\n  ingest: {{sources: {sources}}}\n")
    return run_in_workspace(load_recipe(str(recipe)), StageSelection(), store, use_prefect=False, quiet=True)


def told(command: str, store: Store) -> dict[str, Any]:
    """What a command prints as JSON."""
    arguments = [*command.split(), "--json", "--workspace", str(store.home)]
    answer: dict[str, Any] = json.loads(CliRunner().invoke(build_app(arguments), arguments).stdout)
    return answer


def moved(store: Store, result: RunResult) -> list[dict[str, object]]:
    return [
        event
        for event in read_events(store.home / "runs" / result.run / "events.jsonl")
        if event["type"] == "drop_rates_moved"
    ]


def test_a_drop_rate_that_moved_is_said_by_run_status_and_inspect(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.at(tmp_path / "workspace")
    first = run(tmp_path, store, snapshot(tmp_path, "one", 190, 10))
    assert moved(store, first) == []
    capfd.readouterr()
    second = run(tmp_path, store, snapshot(tmp_path, "two", 140, 60))
    sentence = "web: no_text drops 30.0% of the documents, 5.0% before"
    assert f"warning: {sentence}" in capfd.readouterr().err
    (event,) = moved(store, second)
    assert event["changes"] == [{"source": "web", "rule": "no_text", "before": 0.05, "now": 0.3}]
    assert event["previous"] == first.datasets["ingest"].manifest.fingerprint
    assert event["settings_changed"] is False

    (row,) = told("status", store)["drift"]
    assert sentence in row["warnings"][0]
    view = told("inspect ingest", store)
    assert view["drift"]["changes"][0]["now"] == 0.3
    assert view["by_source"] == [{"stage": "ingest", "group": "web", "incoming": 200, "kept": 140}]


def test_a_set_change_is_let_pass(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "workspace")
    run(tmp_path, store, snapshot(tmp_path, "one", 190, 10))
    second = run(tmp_path, store, snapshot(tmp_path, "two", 140, 60), tolerance=0.3)
    assert moved(store, second) == []
    found = rate_changes(store, second.datasets["ingest"], 0.3)
    assert found is not None
    assert found.changes == ()
    assert moved(store, run(tmp_path, store, snapshot(tmp_path, "two", 140, 60))) == []  # skipped: nothing new to say


def test_the_funnel_by_source_and_language(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "workspace")
    ingest = run(tmp_path, store, snapshot(tmp_path, "one", 30, 10)).datasets["ingest"]
    ((row),) = funnel_by_source([ingest])
    assert (row.group, row.incoming, row.kept) == ("web", 40, 30)
    assert [(row.group, row.incoming, row.kept) for row in languages_through(ingest, ingest)] == [("(unknown)", 30, 30)]
    nothing = adopt_dataset(tmp_path / "empty", "ingest", [])
    assert funnel_by_source([nothing]) == []
