"""``headwater status``: first what needs a hand, in words that can be acted on; whatever is broken hides nothing else."""

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.cli.main import build_app
from flows.situation import situation
from infra.runs import ProgressNote, RunRecord, list_runs
from infra.store.files import write_json
from infra.store.store import Store
from tests.support import write_dataset


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "w")


def command(*words: str) -> Result:
    return CliRunner().invoke(build_app(words), words)


def status(store: Store, *more: str) -> str:
    shown = command("status", "--workspace", store.address, *more)
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def as_json(store: Store) -> dict[str, Any]:
    return dict(json.loads(status(store, "--json")))


def run_of(store: Store, name: str, **changes: Any) -> RunRecord:
    """The record of a run whose process is gone; ``changes`` overwrite what it says of itself."""
    record = RunRecord(name, store.run_url(name))
    told = {
        "id": name,
        "recipe": "demo",
        "argv": [],
        "host": "elsewhere",
        "pid": 1,
        "process_started": 0.0,
        "started": 1.0,
    }
    write_json(f"{record.root}/run.json", told | changes)
    return record


def test_an_empty_workspace_says_how_to_begin(store: Store) -> None:
    assert status(store).strip() == f"{store.address}: nothing is published here yet. Begin with: headwater run demo"


def test_what_runs_is_told_with_its_progress_and_remaining_time(store: Store) -> None:
    record = RunRecord.start(store, "demo")  # this process: it lives
    record.event("stage_started", stage="dedup", fingerprint="0" * 12)
    note = ProgressNote(record, every_s=0.0)
    note.stage_started("dedup", "RUN")
    note.progress("dedup/sign", 62.0, 100.0, {"documents": 1204, "kept": 803, "who": object()}, 120.0)
    text = status(store)
    assert "Running" in text and record.id in text and f"process {os.getpid()}" in text
    assert "dedup/sign: 62 %, documents 1,204, kept 803, 2 min left" in text
    [row] = as_json(store)["running"]
    assert (row["stage"], row["done"], row["total"], row["eta"]) == ("dedup/sign", 62.0, 100.0, 120.0)
    assert row["since"] and "Not completed" not in text


def test_a_loss_that_is_no_number_does_not_spoil_the_json(store: Store) -> None:
    note = ProgressNote(RunRecord.start(store, "demo"), every_s=0.0)
    note.progress("pretrain", 1, 2, {"loss": float("nan"), "grad_norm": float("inf")}, None)
    text = status(store, "--json")
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["running"][0]["figures"] == {"loss": None, "grad_norm": None}


def test_progress_is_written_now_and_then(store: Store) -> None:
    note = ProgressNote(RunRecord.start(store, "demo"), every_s=60.0)
    note.stage_started("dedup", "RUN")
    for done in range(100):
        note.progress("dedup", done, 100, {}, None)
    [row] = situation(store)["running"]
    assert row["done"] == 0.0


def test_a_run_on_another_machine_lives_as_long_as_it_is_heard_of(store: Store) -> None:
    record = run_of(store, "demo-20261127-010101-aaaa")
    assert [run["state"] for run in list_runs(store)] == ["interrupted"]
    ProgressNote(record).stage_started("ingest", "RUN")
    assert [run["state"] for run in list_runs(store)] == ["running"]
    write_json(f"{record.root}/progress.json", {"time": time.time() - 3600, "stage": "ingest"})
    assert [run["state"] for run in list_runs(store)] == ["interrupted"]


def test_a_failure_is_its_sentence_and_the_command_that_goes_on(store: Store) -> None:
    record = run_of(store, "demo-20261127-010101-aaaa", started=time.time() - 7200)
    selection = {"start_at": None, "stop_after": "dedup", "only": [], "force": []}
    record.save_plan({
        "recipe": "demo", "address": "my recipe.yaml", "overrides": ["dedup.bands=20"], "crawl": "", "stages": [],
        "selection": selection,
    })  # fmt: skip
    record.event("stage_started", stage="dedup")
    record.event("stage_failed", stage="dedup", error="the disk is full (/data). Free some room.")
    record.event("run_ended", state="failed", error="the disk is full (/data). Free some room.")
    text = status(store)
    assert "demo-20261127-010101-aaaa failed in stage dedup, 0 s ago" in text
    assert "the disk is full (/data). Free some room." in text
    expected = f"headwater run 'my recipe.yaml' --set dedup.bands=20 --stop-after dedup --workspace {store.address}"
    assert expected in text
    assert as_json(store)["failed"][0]["command"] == expected


def test_a_failure_is_over_when_a_later_run_completed(store: Store) -> None:
    run_of(store, "demo-20261127-010101-aaaa", started=1.0).event("run_ended", state="failed", error="no")
    run_of(store, "other-20261127-010101-cccc", started=3.0, recipe="other").event(
        "run_ended", state="failed", error="x"
    )
    assert [row["recipe"] for row in situation(store)["failed"]] == ["other", "demo"]
    run_of(store, "demo-20261127-020202-bbbb", started=2.0).event("run_ended", state="completed")
    assert [row["recipe"] for row in situation(store)["failed"]] == ["other"]
    assert len(as_json(store)["runs"]) == 3


def test_a_killed_run_says_that_nothing_is_lost(store: Store) -> None:
    run_of(store, "demo-20261127-010101-aaaa").event("stage_started", stage="ingest")
    text = status(store)
    assert "interrupted in stage ingest" in text and "Nothing is lost" in text and "headwater run demo" in text
    run_of(store, "demo-20261127-020202-bbbb", started=2.0).event(
        "run_ended", state="interrupted", error="KeyboardInterrupt"
    )
    assert "it was interrupted. Nothing is lost." in status(store) and "KeyboardInterrupt" not in status(store)


def test_what_is_damaged_is_said_and_hides_nothing(store: Store) -> None:
    good = write_dataset(store.dataset_root("ingest", "0" * 12), "ingest", {"data/x": b"x"})
    store.set_ref("ingest", "latest", "0" * 12)
    torn = store.dataset_root("dedup", "1" * 12)
    torn.mkdir(parents=True)
    (torn / "manifest.json").write_text('{"name": "ded')
    store.set_ref("dedup", "latest", "1" * 12)
    (store.home / "datasets" / "quality" / "refs").mkdir(parents=True)
    (store.home / "datasets" / "quality" / "refs" / "demo").write_text("2" * 12 + "\n")
    (store.home / "runs" / "demo-1").mkdir(parents=True)
    (store.home / "runs" / "demo-1" / "run.json").write_text("{")
    text = status(store)
    assert "Damaged" in text and f"dedup/{'1' * 12}: the manifest is damaged" in text
    assert f"quality/{'2' * 12}: its label 'demo' points at a dataset that is not there" in text
    found = as_json(store)
    assert [row["name"] for row in found["datasets"]] == ["ingest"] and found["datasets"][0]["digest"] == good.digest
    assert [row["state"] for row in found["runs"]] == ["unreadable"]


def test_warnings_of_labelled_datasets_are_said_once(store: Store) -> None:
    for name in ("ingest", "dedup"):
        root = store.dataset_root(name, "0" * 12)
        write_dataset(root, name, {"data/x": b"x"})
        manifest = json.loads((root / "manifest.json").read_text())
        lost = {"unit": "u", "step": "s", "error": "e", "attempts": 3, "files": ["a.gz"], "bytes": 5, "records": None}
        units = {"total": 2, "ok": 1, "failed": [lost] if name == "ingest" else []}
        (root / "manifest.json").write_text(json.dumps({**manifest, "warnings": ["half an archive"], "units": units}))
    assert "half an archive" not in status(store), "nobody's label points at it"
    store.set_ref("ingest", "demo", "0" * 12)
    store.set_ref("dedup", "demo", "0" * 12)
    assert status(store).count("half an archive") == 1
    assert "(incomplete)" in status(store, "--all") and "(incomplete)" not in status(store)


def test_datasets_are_behind_all_and_always_in_the_json(store: Store) -> None:
    write_dataset(store.dataset_root("ingest", "0" * 12), "ingest", {"data/x": b"x" * 1500})
    text = status(store)
    assert "000000000000" not in text and "1 dataset, 1.5 kB, 0 runs" in text and "status --all" in text
    assert "free" in text and "Running\n  nothing" in text and "no Prefect server answers" in text
    assert "000000000000" in status(store, "--all")
    [row] = as_json(store)["datasets"]
    assert {"name", "fingerprint", "digest", "rows", "bytes"} <= row.keys()
    assert as_json(store)["disk"]["free"] > 0


class Server(BaseHTTPRequestHandler):
    """Prefect's answers to what ``status`` asks."""

    def do_GET(self) -> None:
        self._answer("1" if self.path.endswith("version") else True)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        ids = ("a", "b")
        runs = [
            {
                "name": f"watch-{day}", "deployment_id": "a", "state_name": "Scheduled",
                "expected_start_time": f"2099-01-0{day}T06:00:00Z",
            }
            for day in (1, 2, 3)
        ]  # fmt: skip
        late = {
            "id": "x", "name": "dedup-demo-77", "deployment_id": "b", "state_name": "Late",
            "expected_start_time": "2020-01-01T00:00:00Z",
        }  # fmt: skip
        found: Any = [late, *({"id": run["name"], **run} for run in runs)]
        if self.path.endswith("/deployments/filter"):
            found = [{"id": each, "name": {"a": "daily", "b": "demo"}[each]} for each in ids]
        self._answer(found)

    def _answer(self, value: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/api"
    listening.shutdown()


def test_what_is_next_is_the_next_of_each_deployment(
    store: Store, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    write_dataset(store.dataset_root("ingest", "0" * 12), "ingest", {"data/x": b"x"})
    found = as_json(store)["next"]
    assert [(row["name"], row["run"], row["state"]) for row in found["runs"]] == [
        ("demo", "dedup-demo-77", "Late"),
        ("daily", "watch-1", "Scheduled"),
    ]
    text = status(store)
    assert "demo late since 2020-01-01" in text and "daily at 2099-01-01" in text


@pytest.mark.parametrize("words", [["why", "https://x"], ["inspect", "nothing"], ["status"], ["report", "nothing"]])
def test_an_error_in_json_mode_is_the_object(
    words: list[str], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    root = store.dataset_root("ingest", "1" * 12)
    root.mkdir(parents=True)
    (root / "manifest.json").write_text("{")
    store.set_ref("ingest", "latest", "1" * 12)
    shown = CliRunner().invoke(build_app(words), [*words, "--workspace", store.address, "--json"])
    if words == ["status"]:
        assert shown.exit_code == 0 and json.loads(shown.stdout)["damaged"]
    else:
        assert (
            isinstance(shown.exception, Exception) and {"error", "where", "remedy"} == shown.exception.as_dict().keys()
        )  # type: ignore[attr-defined]


def test_the_command_that_is_named_mends_the_run(store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "recipe: small\nexecution: {workers: 1}\nstages:\n  ingest:\n    sources:\n"
        f"      - {{name: texts, kind: jsonl, address: {tmp_path}/source.jsonl, language: en}}\n"
    )
    (tmp_path / "source.jsonl").write_text("not JSON\n")
    first = command(
        "run", str(recipe), "--workspace", store.address, "--no-prefect", "--set", "ingest.extract.tables=false"
    )
    assert first.exit_code != 0
    [failure] = as_json(store)["failed"]
    assert failure["stage"] == "ingest" and "failed in stage ingest" in status(store)
    rows = [json.dumps({"text": f"Document {n} of a small source. " * 8}) for n in range(5)]
    (tmp_path / "source.jsonl").write_text("\n".join(rows))
    words = failure["command"].split()[1:]
    assert "ingest.extract.tables=false" in words
    again = command(*words, "--no-prefect")
    assert again.exit_code == 0, again.output
    assert as_json(store)["failed"] == [] and "last completed: small-" in status(store)
