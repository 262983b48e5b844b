"""A full disk is called a full disk, whoever meets it: numpy, Arrow, plain files, in a worker or in the driver."""

import errno
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import HeadwaterError, disk_full
from infra.execution.base import describe_failure
from infra.runner import run_stage
from infra.stage import Counts, StageContext, StageNode, Step, Unit, UnitContext
from infra.store.files import publish_file
from pipeline.dedup.flat import write_array
from tests.infra.run_toy import context
from tests.infra.toy import NUMBERS, NumbersConfig
from tests.support import InProcessExecutor

FULL = Path("/dev/full")
NEEDS_DEVICE = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")


def by_numpy() -> None:
    np.zeros(1 << 16).tofile(FULL)


def by_our_arrays() -> None:
    with FULL.open("wb") as stream:
        write_array(np.zeros(10), stream)


def by_arrow() -> None:
    with FULL.open("wb", buffering=0) as stream:  # by its path Arrow would remove the device
        pq.write_table(pa.table({"a": list(range(100_000))}), stream)


def by_hand() -> None:
    with FULL.open("wb", buffering=0) as stream:
        stream.write(b"x" * 8192)


def wrapped() -> None:
    try:
        by_hand()
    except OSError as error:
        raise RuntimeError("could not save") from error


EVERY = [by_numpy, by_our_arrays, by_arrow, by_hand, wrapped]


@NEEDS_DEVICE
@pytest.mark.parametrize("write", EVERY)
def test_whatever_words_a_library_has_for_it(write: Callable[[], None]) -> None:
    with pytest.raises((OSError, RuntimeError)) as caught:
        write()
    failure = describe_failure(caught.value)  # type: ignore[arg-type]
    assert failure.fatal is not None and failure.fatal.error == "the disk is full"
    assert "max_failed_fraction" not in failure.text


def test_other_errors_are_left_alone() -> None:
    assert disk_full(OSError(errno.EIO, "Input/output error")) is None
    assert disk_full(ValueError("invalid literal: 'OSError: No space left on device'")) is None, "a page may say so"
    assert disk_full(sqlite3.OperationalError("database or disk is full")) is not None


def test_another_error_of_a_write_is_raised_as_it_is(tmp_path: Path) -> None:
    """One that were its own cause would be looked through for ever."""
    with pytest.raises(OSError, match="Input/output error") as caught, publish_file(str(tmp_path), "x", tmp_path / "s"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.__cause__ is None
    assert describe_failure(caught.value).transient


@NEEDS_DEVICE
@pytest.mark.parametrize("where", ["process", "finalize", "units"])
def test_a_stage_stops_at_once_and_says_it(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(unit: Unit, context: UnitContext) -> Counts:
        if where == "process":
            with context.output(f"data/{unit.id}.bin"):
                by_numpy()
        return Counts()

    def units(context: StageContext) -> list[Unit]:
        if where == "units":
            by_our_arrays()
        return [Unit("a"), Unit("b")]

    def finalize(context: StageContext) -> None:
        by_numpy()

    stage = replace(NUMBERS, steps=(Step("write", units, process),), finalize=finalize)
    monkeypatch.setattr("tests.infra.toy.NUMBERS", stage)
    with pytest.raises(HeadwaterError, match="the disk is full"):
        run_stage(StageNode(stage, NumbersConfig()), {}, replace(context(tmp_path), executor=InProcessExecutor()))
    assert not any(tmp_path.glob("work/numbers/*/failures/*")), "it is no fault of a unit"
