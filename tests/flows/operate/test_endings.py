"""A run's log ends with one line: what came of it in numbers, or the sentence it failed with, and no traceback."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-home-"))

from flows.cancellation import Interrupted, StageCancelled, how_it_ended, recorded_end
from flows.execute import RunResult
from flows.operate import endings
from flows.operate.endings import as_flow_state, as_task_state, run_line, stage_line, unwrap_state
from flows.operate.prefect_internals import LOGGERS, SAID_AGAIN, TRACED_AGAIN, Repetitions
from infra.errors import HeadwaterError, InputError
from infra.planning import Action
from infra.runner import StageOutcome
from infra.runs import RunRecord, run_events
from infra.store.dataset import Dataset
from infra.store.manifest import CountsRecord, FailedUnit, Manifest, UnitsRecord, write_manifest
from infra.store.store import Store


@pytest.fixture(autouse=True)
def run_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(endings, "get_run_logger", lambda: logging.getLogger("a-run"))
    monkeypatch.setattr(endings, "leave_out_repetitions", lambda: None)
    caplog.set_level(logging.INFO)


def fails(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


def dataset(folder: Path, name: str, counts: CountsRecord, **changes: Any) -> Dataset:
    manifest = Manifest(
        name=name, fingerprint="0123456789ab", payload={}, config={}, inputs=[], outputs=[],
        output_digest="", counts=counts, **changes,
    )  # fmt: skip
    root = folder / name / "0123456789ab"
    root.mkdir(parents=True)
    write_manifest(str(root), manifest)
    return Dataset.open(str(root))


def test_a_failure_is_one_red_sentence_with_the_stages_name_first(caplog: pytest.LogCaptureFixture) -> None:
    error = InputError("there is no file", where="/srv/x.jsonl", remedy="Check the source's address.")
    state: Any = as_flow_state("ingest", fails(error))
    sentence = "ingest: there is no file (/srv/x.jsonl). Check the source's address."
    assert (state.name, state.message) == ("Failed", sentence)
    assert [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("ERROR", sentence, None)
    ]
    with pytest.raises(InputError, match="there is no file"):
        unwrap_state(state)


def test_the_whole_path_names_the_stage_it_failed_at(caplog: pytest.LogCaptureFixture) -> None:
    def path() -> None:
        task: Any = as_task_state("dedup", fails(InputError("a band is missing")), [])
        unwrap_state(task)

    stage: Any = as_flow_state("dedup", path)
    whole: Any = as_flow_state("pipeline", lambda: unwrap_state(stage))
    assert whole.message == "dedup: a band is missing."
    before: Any = as_flow_state("pipeline", fails(HeadwaterError("there is no recipe 'x'")))
    assert before.message == "pipeline: there is no recipe 'x'."


def test_an_error_nobody_foresaw_keeps_its_traceback_above_its_sentence(caplog: pytest.LogCaptureFixture) -> None:
    state: Any = as_flow_state("dedup", fails(KeyError("band")))
    assert state.name == "Failed" and state.message.startswith("dedup: KeyError: 'band'")
    traced, last = caplog.records
    assert traced.exc_info is not None and last.exc_info is None
    assert last.getMessage() == state.message


@pytest.mark.parametrize(
    ("error", "state", "record"),
    [
        (StageCancelled("cancelled"), "Cancelled", "cancelled"),
        (KeyboardInterrupt(), "Cancelled", "interrupted"),
        (HeadwaterError("broken"), "Failed", "failed"),
        (ValueError("bug"), "Failed", "failed"),
    ],
)
def test_what_was_cancelled_is_recorded_as_that(error: BaseException, state: str, record: str) -> None:
    found: Any = as_flow_state("ingest", fails(error))
    assert found.name == state
    assert how_it_ended(error) == record
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(Interrupted):
            unwrap_state(found)


def test_every_end_stands_in_the_runs_record(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    failed, done = RunRecord.start(store, "failed"), RunRecord.start(store, "done")
    with pytest.raises(InputError), recorded_end(failed):
        raise InputError("there is no file")
    with recorded_end(done):
        pass
    ends = [next(run_events(record.root)) for record in (failed, done)]
    assert [(end["type"], end["state"]) for end in ends] == [("run_ended", "failed"), ("run_ended", "completed")]
    assert ends[0]["error"] == "there is no file."


def test_a_signal_is_a_cancellation_where_the_server_meant_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect._internal import control_listener
    from prefect.exceptions import TerminationSignal

    assert how_it_ended(TerminationSignal(15)) == "interrupted"
    with pytest.raises(TerminationSignal):
        as_task_state("dedup", fails(TerminationSignal(15)), [])
    monkeypatch.setattr(control_listener, "_intent", "cancel")
    assert how_it_ended(TerminationSignal(15)) == "cancelled"
    signals: list[BaseException] = []
    task: Any = as_task_state("dedup", fails(TerminationSignal(15)), signals)
    assert (task.name, len(signals)) == ("Cancelled", 1), "and not Crashed; the flow goes on with the signal"


def test_a_success_says_its_numbers_and_hands_its_value_on(tmp_path: Path) -> None:
    counts = CountsRecord(incoming=2914, kept=2888, dropped={"url": 6, "near": 20}, failed=0)
    outcome = StageOutcome("dedup", Action.RUN, "built", dataset(tmp_path, "dedup", counts), 4.0)
    state: Any = as_flow_state("dedup", lambda: outcome, stage_line)
    assert state.name == "Completed"
    assert state.message == "dedup: kept 2,888 of 2,914 documents, dropped 26 (near 20, url 6); published 0123456789ab"
    assert unwrap_state(state) is outcome


def test_a_loss_and_warnings_stand_in_the_line(tmp_path: Path) -> None:
    lost = UnitsRecord(total=120, ok=119, failed=[FailedUnit(unit="u", step="read", error="x", attempts=3)])
    counts = CountsRecord(incoming=10, kept=7, dropped={"a": 1}, failed=2)
    found = dataset(tmp_path, "ingest", counts, units=lost, warnings=["one", "two"])
    line = stage_line(StageOutcome("ingest", Action.SKIP, "", found))
    assert "2 failed, incomplete: 1 of 120 units are missing, 2 warnings; SKIP: published as 0123456789ab" in line
    result = RunResult("r", [], [StageOutcome("ingest", Action.SKIP, "", found)], {"ingest": found})
    assert run_line(result) == (
        "pipeline: nothing was left to do; 1 stage was published already; of 10 documents 7 are kept after ingest; "
        "read the warnings of ingest"
    )


def test_prefect_does_not_say_it_again() -> None:
    def passes(message: str, traced: bool = False) -> bool:
        info: Any = (ValueError, ValueError("x"), None) if traced else None
        return Repetitions().filter(logging.LogRecord("prefect", logging.ERROR, "", 0, message, (), info))

    assert not passes("Finished in state Completed()")
    assert not passes("Task run failed with state: Failed('x')")
    assert not passes("Engine execution exited with unexpected exception", traced=True)
    assert not passes("Execution of flow run 'x' exited with unexpected exception", traced=True)
    assert passes("Execution of flow run 'x' was terminated.")
    assert passes("Flow run was cancelled.")
    assert passes("Crash detected! Execution was aborted by a termination signal.")


def test_prefects_lines_are_as_this_expects() -> None:
    from prefect import engine, flow_engine, task_engine

    said = "".join(Path(str(module.__file__)).read_text() for module in (engine, flow_engine, task_engine))
    for words in (*SAID_AGAIN, *TRACED_AGAIN):
        assert words in said
    assert {"prefect.flow_runs", "prefect.task_runs"} <= set(LOGGERS)
