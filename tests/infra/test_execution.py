"""Units in real processes: what goes wrong costs what it should and no more."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import ConfigError, HeadwaterError
from infra.execution.base import Executor, UnitOutcome, UnitTask
from infra.execution.local import LocalExecutor
from infra.journal import read_receipts
from infra.stage import Unit
from infra.store.files import sha256_file
from tests.support import REPOSITORY, InProcessExecutor

STAGE = "tests.infra.stage_of_hazards:STAGE"


def task(folder: Path, reference: str = STAGE) -> UnitTask:
    (folder / "work").mkdir(parents=True, exist_ok=True)
    return UnitTask(
        reference,
        "work",
        {},
        {},
        str(folder / "dataset"),
        str(folder / "work"),
        str(folder / "scratch"),
        str(folder / "journal"),
    )


def unit(name: str, do: str = "write", **payload: object) -> Unit:
    return Unit(name, {"do": do, **payload})  # type: ignore[dict-item]


def run(executor: Executor, folder: Path, units: Iterable[Unit]) -> dict[str, UnitOutcome]:
    return {outcome.unit.id: outcome for outcome in executor.run(task(folder), units)}


def pool(**settings: object) -> LocalExecutor:
    return LocalExecutor(**{"workers": 2, "backoff_s": 0.05, **settings})  # type: ignore[arg-type]


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes among a process's descendants (not the servers that fork them)."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if any(other.pid == child.ppid() for other in children)]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted((folder / "dataset" / "data").iterdir())}


def test_the_number_of_workers_does_not_change_the_bytes(tmp_path: Path) -> None:
    units = [unit(f"u{number:02}", text=f"text {number}") for number in range(20)]
    results = []
    for name, executor in (("one", pool(workers=1)), ("three", pool(workers=3)), ("here", InProcessExecutor())):
        outcomes = run(executor, tmp_path / name, units)
        assert all(outcome.receipt for outcome in outcomes.values())
        results.append((sorted(outcomes), digests(tmp_path / name)))
    assert results[0] == results[1] == results[2]


def test_receipts_are_in_the_journal_and_nothing_is_left_in_scratch(tmp_path: Path) -> None:
    outcomes = run(pool(), tmp_path, [unit("a"), unit("b")])
    receipts = read_receipts(tmp_path / "journal")
    assert {key: receipt for (_, key), receipt in receipts.items()} == {k: o.receipt for k, o in outcomes.items()}
    assert list((tmp_path / "scratch").iterdir()) == []


def test_workers_work_in_their_drivers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(pool(), tmp_path / "first", [unit("a")])  # the fork server is there from now on
    monkeypatch.setenv("HEADWATER_TEST_CREDENTIALS", "given later")
    run(pool(), tmp_path / "second", [unit("b", "environment", variable="HEADWATER_TEST_CREDENTIALS")])
    assert (tmp_path / "second" / "dataset" / "data" / "b.txt").read_text() == "b given later\n"


def test_stages_share_one_fork_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of its own costs a stage more than to import it."""
    (tmp_path / "second_stage.py").write_text("from tests.infra.stage_of_hazards import STAGE\n")
    monkeypatch.syspath_prepend(tmp_path)
    servers = []
    for name, reference in (("one", STAGE), ("two", "second_stage:STAGE")):
        (outcome,) = pool(workers=1).run(task(tmp_path / name, reference), [unit("u")])
        assert outcome.receipt
        children = psutil.Process().children()
        servers.append([child.pid for child in children if "forkserver" in " ".join(child.cmdline())])
    assert servers[0] == servers[1]


def test_units_are_taken_as_workers_become_free(tmp_path: Path) -> None:
    taken: list[str] = []

    def endless() -> Iterator[Unit]:
        for number in range(10_000):
            taken.append(f"u{number}")
            yield unit(f"u{number}")

    outcomes = pool().run(task(tmp_path), endless())
    for _ in range(5):
        next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert len(taken) <= 5 + 2 * 2


@pytest.mark.parametrize(
    ("do", "error", "attempts"),
    [
        ("input", "the archive is empty (x.warc.gz)", 1),
        ("bug", "ZeroDivisionError: a defect", 1),
        ("network", "ConnectionResetError", 3),
    ],
)
@pytest.mark.parametrize("executor", [pool(), InProcessExecutor(backoff_s=0.01)], ids=["pool", "here"])
def test_a_failed_unit_costs_the_unit(tmp_path: Path, executor: Executor, do: str, error: str, attempts: int) -> None:
    outcomes = run(executor, tmp_path, [unit("bad", do), unit("good")])
    assert outcomes["good"].receipt
    assert outcomes["bad"].receipt is None
    assert error in outcomes["bad"].error
    assert outcomes["bad"].attempts == attempts


def test_a_dead_worker_or_a_broken_connection_costs_another_attempt(tmp_path: Path) -> None:
    outcomes = run(pool(), tmp_path, [unit("dies", "crash once"), unit("net", "network once"), unit("good")])
    assert {name: outcome.attempts for name, outcome in outcomes.items()} == {"dies": 2, "net": 2, "good": 1}
    assert all(outcome.receipt for outcome in outcomes.values())


def test_a_unit_that_always_crashes_is_given_up(tmp_path: Path) -> None:
    outcomes = run(pool(), tmp_path, [unit("bad", "crash"), unit("good")])
    assert outcomes["good"].receipt
    assert "SIGSEGV" in outcomes["bad"].error
    assert outcomes["bad"].attempts == 3


def test_wrong_configuration_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        run(pool(), tmp_path, [unit("bad", "config"), unit("good")])


def test_a_stage_that_cannot_be_imported_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="no_such_module"):
        list(pool().run(task(tmp_path, "tests.infra.no_such_module:STAGE"), [unit("a")]))


def test_a_unit_that_overstays_is_tried_once_more_alone(tmp_path: Path) -> None:
    outcomes = run(pool(unit_timeout_s=0.5), tmp_path, [unit("slow", "stuck"), unit("good")])
    assert outcomes["good"].receipt
    assert outcomes["slow"].error == "the unit took longer than 0.5 s, also when it ran alone"
    assert outcomes["slow"].attempts == 2


def test_memory_over_the_cap_is_tried_once_more_alone_with_all_of_it(tmp_path: Path) -> None:
    units = [
        unit("fits alone", "memory", bytes=300 << 20, seconds=1.5),
        unit("never fits", "memory", bytes=700 << 20),
        unit("good"),
    ]
    outcomes = run(pool(memory_bytes=256 << 20), tmp_path, units)
    assert outcomes["good"].receipt
    assert outcomes["fits alone"].receipt
    assert outcomes["fits alone"].attempts == 2
    assert "more than its 512 MB, also when it ran alone" in outcomes["never fits"].error


def test_documents_that_end_their_worker_cost_only_themselves(tmp_path: Path) -> None:
    units = [unit("bad", "documents", stuck=[2], crash=[5], slow=[7]), unit("good", "documents")]
    outcomes = run(pool(), tmp_path, units)
    bad = outcomes["bad"].receipt
    assert bad is not None
    assert bad.counts.dropped == {"crash": 2, "timeout": 1}
    assert (tmp_path / "dataset/data/bad.txt").read_text() == "0 1 3 4 6 8 9"
    good = outcomes["good"].receipt
    assert good is not None
    assert good.counts.kept == 10


DRIVER = """
import signal
import sys
from pathlib import Path
from infra.execution.local import LocalExecutor
from tests.infra.test_execution import task, unit
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
kind, folder = sys.argv[1], Path(sys.argv[2])
units = [unit("a", kind, seconds=60), unit("b", kind, seconds=60)]
list(LocalExecutor(workers=2).run(task(folder), units))
"""


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (signal.SIGKILL, "stuck"),
        (signal.SIGINT, "stuck"),
        pytest.param(signal.SIGKILL, "sleep", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "sleep", marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_their_driver(tmp_path: Path, how: signal.Signals, kind: str) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, kind, str(tmp_path)],
        cwd=REPOSITORY,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while len(workers_of(driver.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) >= 3
    os.kill(driver.pid, how)
    try:
        driver.wait(60)
    finally:
        driver.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_a_worker_killed_from_outside_costs_one_attempt(tmp_path: Path) -> None:
    def kill_the_victim() -> None:
        deadline = time.monotonic() + 60
        while not (victims := list(tmp_path.glob("work/victim-*"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(int(victims[0].name.removeprefix("victim-")), signal.SIGKILL)

    thread = threading.Thread(target=kill_the_victim)
    thread.start()
    outcomes = run(pool(), tmp_path, [unit("victim", "killed once"), *(unit(f"u{number}") for number in range(3))])
    thread.join()
    assert all(outcome.receipt for outcome in outcomes.values())
    assert {name: outcome.attempts for name, outcome in outcomes.items()} == {"victim": 2, "u0": 1, "u1": 1, "u2": 1}
