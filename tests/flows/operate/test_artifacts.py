"""What is shown in the Prefect UI is capped, cannot be marked up from inside, and never stops a run."""

import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from flows.cli.main import build_app
from flows.operate import artifacts
from flows.operate.artifacts import (
    MARKDOWN_BYTES,
    MESSAGES,
    LogReporter,
    ProgressReporter,
    artifact_key,
    best_effort,
    capped,
    fenced,
)
from flows.provenance.notices import notice_lines
from infra.progress import Reporters
from infra.store.dataset import Dataset
from infra.store.store import Store
from tests.support import write_dataset


@pytest.mark.parametrize("text", ["plain", "a ``` fence", "`````", "<script>alert(1)</script>"])
def test_foreign_text_cannot_close_its_fence(text: str) -> None:
    lines = fenced(text).splitlines()
    fence = lines[-1]
    assert set(fence) == {"`"}
    assert lines[0] == f"{fence}text"
    assert fence not in "\n".join(lines[1:-1])


def test_long_texts_are_cut() -> None:
    assert len(fenced("x" * 10_000)) < 600
    assert len(capped("ü" * MARKDOWN_BYTES).encode()) < MARKDOWN_BYTES + 100


def test_keys_have_the_form_prefect_wants() -> None:
    assert artifact_key("dedup/signatures", "progress") == "dedup-signatures-progress"


def test_a_reporter_that_fails_is_dropped_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        def __getattr__(self, name: str) -> object:
            raise ConnectionError("no route to the server")

    logger = logging.getLogger("test")
    reporters = Reporters([Gone(), LogReporter(logger)])  # type: ignore[list-item]
    with caplog.at_level(logging.INFO):
        reporters.stage_started("dedup", "RUN")
        reporters.message("dedup", "half way")
    assert [record.getMessage() for record in caplog.records if record.name == "test"] == [
        "dedup: RUN",
        "dedup: half way",
    ]
    assert sum("is gone" in record.getMessage() for record in caplog.records) == 1


def test_an_artifact_that_cannot_be_published_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ConnectionError("no route to the server")

    best_effort(fail)
    assert "could not be published" in caplog.text


def test_a_server_that_does_not_answer_never_holds_up_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, str]] = []
    asked, answer = threading.Event(), threading.Event()

    def create(progress: float, key: str, description: str) -> UUID:
        asked.set()
        answer.wait(20)
        told.append((progress, key))
        return uuid4()

    def update(artifact: UUID, progress: float, description: str) -> None:
        told.append((progress, "again"))

    monkeypatch.setattr(artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    reporter = ProgressReporter(every_s=0.0)
    began = time.monotonic()
    reporter.stage_started("dedup", "RUN")
    assert asked.wait(5)
    for done in range(1, 51):
        reporter.progress("dedup", done, 100, {}, None)
    assert time.monotonic() - began < 5.0
    assert told == []
    answer.set()
    reporter.stage_ended("dedup", "published")
    assert told[0][1] == "dedup-progress"
    assert told[-1] == (100.0, "again")
    assert len(told) < 10  # what was overtaken is not told


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("kept 7 of 9 documents; published in 3 s", (100.0, "kept 7 of 9 documents; published in 3 s")),
        ("failed", (0.0, "failed")),
        ("interrupted", (0.0, "interrupted")),
    ],
)
def test_progress_ends_with_the_true_counts_however_it_ends(
    end: str, last: tuple[float, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, tuple[float, str]] = {}

    class Teller:
        def publish(self, stage: str, percent: float, text: str) -> None:
            told[stage] = (percent, text)

        def drain(self, seconds: float) -> None:
            return

    reporter = ProgressReporter(every_s=3600.0)
    monkeypatch.setattr(reporter, "_publisher", Teller())
    reporter.stage_started("dedup", "RUN")
    for done in range(1, 10):  # the first is shown, the others would be an hour later
        reporter.progress("dedup/sign", done, 10, {"documents": 100 * done}, None)
    assert told["dedup/sign"] == (10.0, "10 %, documents 100")
    reporter.stage_ended("dedup", end)
    assert told == {"dedup/sign": (90.0, "90 %, documents 900"), "dedup": last}


def test_warnings_are_warnings_in_the_log_and_never_left_out(caplog: pytest.LogCaptureFixture) -> None:
    reporter = LogReporter(logging.getLogger("loud"))
    with caplog.at_level(logging.INFO):
        for number in range(2 * MESSAGES):
            reporter.message("ingest", f"unit {number}")
        reporter.message("ingest", "warning: 497 of 954 records")
    last = caplog.records[-1]
    assert (last.levelname, last.getMessage()) == ("WARNING", "ingest: warning: 497 of 954 records")


def test_a_flood_of_messages_becomes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    reporter = LogReporter(logging.getLogger("flood"))
    with caplog.at_level(logging.INFO):
        for number in range(1000):
            reporter.message("ingest/read", f"unit {number} failed")
        reporter.message("dedup", "of another stage")
        reporter.stage_ended("ingest", "published in 3 s")
        reporter.message("ingest", "of the next run")
    assert len(caplog.messages) == MESSAGES + 3
    assert (
        caplog.messages[-2] == f"ingest: published in 3 s ({1000 - MESSAGES} more messages: see the events of this run)"
    )
    assert caplog.messages[-1] == "ingest: of the next run"


def test_progress_is_logged_less_often_the_longer_a_stage_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(artifacts.time, "monotonic", lambda: now)
    reporter = LogReporter(logging.getLogger("long"))
    lines = {}
    with caplog.at_level(logging.INFO):
        for hours in (0.5, 5, 96):
            caplog.clear()
            reporter.stage_started("pretrain", "RUN")
            for _ in range(int(hours * 360)):
                now += 10.0
                reporter.progress("pretrain", now, 1e9, {}, None)
            lines[hours] = len(caplog.messages)
    assert 20 < lines[0.5] < 60
    assert lines[96] < 150


def lacking(root: Path, name: str, error: str) -> Dataset:
    """A dataset that was published without one of its files, and warns of another."""
    write_dataset(root, name, {"data/x": b"x"})
    manifest = json.loads((root / "manifest.json").read_text())
    lost = {"unit": "u" * 16, "step": "read", "error": error, "attempts": 3, "files": ["part-077.jsonl"], "bytes": 1834,
            "records": None}  # fmt: skip
    counts = {"incoming": 2360, "kept": 2300, "dropped": {"language": 60}, "failed": 0}
    warned = ["incomplete: 1 of 120 units failed", "b.warc.gz ends early: 497 records were read"]
    units = {"total": 120, "ok": 119, "failed": [lost]}
    (root / "manifest.json").write_text(json.dumps({**manifest, "counts": counts, "units": units, "warnings": warned}))
    return Dataset.open(str(root))


def test_the_funnel_begins_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, **more: made.append(text))
    artifacts.publish_funnel([lacking(tmp_path, "ingest", "bad <script>alert(1)</script> | `x`")])
    [text] = made
    assert text.startswith("## ingest is incomplete: 1 of 120 units, 1,834 bytes, records unknown are missing")
    assert "part-077.jsonl" in text and "<script>" not in text
    assert "b.warc.gz ends early: 497 records" in text.replace("\\", "")
    assert "| ingest | 2,360 | 2,300 | 97.5% | 60 | 0 | language 60 |" in text
    artifacts.publish_funnel([write_dataset(tmp_path / "t", "tokenizer", {"data/x": b"x"})])
    assert len(made) == 1, "nothing to say"


def test_a_terminal_is_told_the_same(tmp_path: Path) -> None:
    lines = list(notice_lines([lacking(tmp_path, "ingest", "bad")]))
    assert lines == [
        "incomplete: ingest/000000000000 lacks 1 of 120 units, 1,834 bytes, records unknown; the next run tries them again",
        "  part-077.jsonl (1,834 bytes, records unknown): bad",
        "warning: ingest: b.warc.gz ends early: 497 records were read",
    ]


def test_inspect_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    dataset = lacking(tmp_path / "d", "attributes", "bad")
    words = ["inspect", dataset.root, "--sample", "0", "--workspace", str(tmp_path / "w")]
    assert "part-077.jsonl (1,834 bytes, records unknown): bad" in CliRunner().invoke(build_app(words), words).stdout
    found = json.loads(CliRunner().invoke(build_app(words), [*words, "--json"]).stdout)
    assert found["complete"] is False and found["failed_units"][0]["bytes"] == 1834 and len(found["warnings"]) == 2


def test_without_a_server_that_shows_pages_the_place_of_the_report_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, **more: made.append(text))
    monkeypatch.setattr(artifacts, "create_link_artifact", lambda link, **more: made.append(link))
    store = Store.at(tmp_path)
    dataset = write_dataset(tmp_path / "datasets/ingest/000000000000", "ingest", {"data/x": b"x"})
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    artifacts.publish_report(store, {"ingest": dataset}, "demo-20261127-193007-c092")
    assert f"{tmp_path}/reports/demo-20261127-193007-c092.html" in made[-1] and "headwater report demo-2026" in made[-1]
    assert "ingest" in (tmp_path / "reports" / "demo-20261127-193007-c092.html").read_text()
    monkeypatch.setattr(artifacts, "served", lambda api, name: True)
    artifacts.publish_report(store, {"ingest": dataset}, "demo-20261127-193007-c092")
    assert made[-1].startswith("/reports/demo-20261127-193007-c092")
