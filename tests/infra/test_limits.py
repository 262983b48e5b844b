"""A document that takes too long costs that document."""

import contextlib
import signal
import threading
import time
from pathlib import Path

import pytest

from infra.execution.limits import (
    Board,
    DocumentCrash,
    DocumentLost,
    DocumentTimeout,
    UnitGuard,
    guarded_unit,
    time_limit,
)


def test_a_slow_document_is_interrupted() -> None:
    began = time.monotonic()
    with pytest.raises(DocumentTimeout, match="longer than 0.1 s"), time_limit(0.1):
        while True:
            pass
    assert time.monotonic() - began < 2


def test_a_fast_document_leaves_no_timer_behind() -> None:
    before, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with time_limit(5):
        value = 1
    assert value == 1
    assert signal.getitimer(signal.ITIMER_REAL) == pytest.approx(timer, abs=1.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_swallowed_timeout_is_raised_at_the_end() -> None:
    reached = False
    with pytest.raises(DocumentTimeout), time_limit(0.05):
        with contextlib.suppress(Exception):
            time.sleep(5)
        reached = True
    assert reached


def test_an_outer_limit_still_holds_after_an_inner_one() -> None:
    with pytest.raises(DocumentTimeout, match=r"0\.3 s"), time_limit(0.3):
        with time_limit(5):
            time.sleep(0.05)
        time.sleep(5)


def test_another_thread_runs_without_the_timer() -> None:
    seen: list[str] = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
            seen.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done"]


def test_the_board_names_the_document_in_work(tmp_path: Path) -> None:
    board, driver = Board(tmp_path / "board"), Board(tmp_path / "board")
    with guarded_unit(UnitGuard(board)), time_limit(3, document="a1"):
        current = driver.current()
        assert current is not None
        name, overdue = current
        assert name == "a1"
        assert 3 < overdue - time.monotonic() < 60
    assert driver.current() is None


def test_a_document_in_quarantine_is_not_tried_again() -> None:
    with guarded_unit(UnitGuard(quarantine=frozenset({"bad"}))):
        with pytest.raises(DocumentCrash) as caught, time_limit(3, document="bad"):
            raise AssertionError("must not run")
        assert isinstance(caught.value, DocumentLost)
        with time_limit(3, document="good"):
            pass
