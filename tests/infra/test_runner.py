"""The runner's promises: the same bytes whatever happened on the way, and nothing published that does not balance."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from infra.errors import HeadwaterError, InputError
from infra.execution.base import Executor, UnitOutcome, UnitTask
from infra.runner import run_stage
from infra.stage import StageNode, Unit
from infra.store.dataset import Dataset
from infra.store.store import Store
from tests.infra.run_toy import context, run_both
from tests.infra.toy import NUMBERS, SQUARES, NumbersConfig, SquaresConfig
from tests.support import REPOSITORY


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Output digests of an uninterrupted run."""
    done = run_both(context(tmp_path_factory.mktemp("reference")))
    return {name: outcome.dataset.digest for name, outcome in done.items()}


def test_a_second_run_skips_with_a_reason(tmp_path: Path, reference: dict[str, str]) -> None:
    run_both(context(tmp_path))
    again = run_both(context(tmp_path))
    assert [outcome.action.value for outcome in again.values()] == ["SKIP", "SKIP"]
    assert all("neither its configuration" in outcome.reason for outcome in again.values())
    assert {name: outcome.dataset.digest for name, outcome in again.items()} == reference


def test_the_number_of_workers_does_not_matter(tmp_path: Path, reference: dict[str, str]) -> None:
    done = run_both(context(tmp_path, workers=3))
    assert {name: outcome.dataset.digest for name, outcome in done.items()} == reference


def test_counts_inputs_and_provenance_are_on_record(tmp_path: Path) -> None:
    squares = run_both(context(tmp_path))["squares"].dataset
    counts = squares.manifest.counts
    assert (counts.incoming, counts.kept, counts.dropped) == (40, 20, {"odd": 20})
    assert squares.manifest.stats == {"total": sum(n * n for n in range(0, 40, 2))}
    assert [record.name for record in squares.manifest.inputs] == ["numbers"]
    assert squares.manifest.provenance.packages["pyarrow"]
    assert not (Store.at(tmp_path).work_root("squares", squares.manifest.fingerprint) / "steps").exists()


def test_a_stage_that_loses_a_record_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="handed on 40"):
        run_both(context(tmp_path), squares=SquaresConfig(lose_a_row=True))
    assert [dataset.name for dataset in Store.at(tmp_path).datasets()] == ["numbers"]


@dataclass
class Tampering:
    """Works like another executor; then one byte of a finished file changes."""

    executor: Executor

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        yield from self.executor.run(task, units)
        path = sorted(Path(task.dataset_root, "data").rglob("*.parquet"))[-1]
        path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_a_file_that_changed_after_it_was_written_is_not_published(tmp_path: Path) -> None:
    run = context(tmp_path)
    with pytest.raises(HeadwaterError, match="changed after it was written"):
        run_both(replace(run, executor=Tampering(run.executor)))
    assert list(Store.at(tmp_path).datasets()) == []


def test_a_stage_that_keeps_nothing_names_the_rule(tmp_path: Path) -> None:
    numbers = NumbersConfig(files=2, rows=1)
    run = context(tmp_path)
    first = run_stage(StageNode(NUMBERS, numbers), {}, run).dataset
    with pytest.raises(InputError, match=r"kept none of 2 records; most went by 'odd'|kept none"):
        run_stage(StageNode(SQUARES, SquaresConfig(modulus=1000)), {"numbers": _without_zero(first, tmp_path)}, run)


def _without_zero(numbers: Dataset, folder: Path) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from infra.stage import Counts
    from infra.store.files import describe_file
    from tests.support import adopt_dataset

    root = folder / "odd"
    (root / "data").mkdir(parents=True)
    pq.write_table(pa.table({"number": [1, 3]}), root / "data/x.parquet")
    return adopt_dataset(root, "numbers", [describe_file(root, "data/x.parquet")], Counts(2, 2))


def test_too_many_failed_units_fail_the_stage_and_finished_ones_are_kept(tmp_path: Path) -> None:
    numbers = StageNode(NUMBERS, NumbersConfig(files=4, broken_units=1))
    with pytest.raises(InputError, match="this unit is broken"):
        run_stage(numbers, {}, context(tmp_path))
    tolerant = run_stage(numbers, {}, context(tmp_path, max_failed_fraction=0.5)).dataset
    assert (tolerant.manifest.units.total, tolerant.manifest.units.ok) == (4, 3)
    assert "broken" in tolerant.manifest.units.failed[0].error


def test_force_builds_again_and_gives_the_same_bytes(tmp_path: Path, reference: dict[str, str]) -> None:
    node = StageNode(NUMBERS, NumbersConfig())
    run_stage(node, {}, context(tmp_path))
    forced = run_stage(node, {}, context(tmp_path), force=True)
    assert forced.action.value == "RUN"
    assert forced.dataset.digest == reference["numbers"]


def test_stray_files_of_a_killed_attempt_are_swept(tmp_path: Path) -> None:
    run = context(tmp_path)
    dataset = run_stage(StageNode(NUMBERS, NumbersConfig()), {}, run).dataset
    (Path(dataset.root) / "manifest.json").unlink()
    stray = Path(dataset.root) / "data" / "stray.parquet"
    stray.write_bytes(b"left by a killed worker")
    run_stage(StageNode(NUMBERS, NumbersConfig()), {}, context(tmp_path))
    assert not stray.exists()


def _driver(process: subprocess.Popen[str]) -> psutil.Process:
    return psutil.Process(process.pid)


def _a_worker(process: subprocess.Popen[str]) -> psutil.Process:
    """The youngest descendant: a pool worker."""
    return max(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.create_time())


def _receipts(home: Path, stage: str) -> Callable[[], bool]:
    return lambda: any(home.glob(f"work/{stage}/*/journal/*.jsonl"))


def _published(home: Path, stage: str) -> Callable[[], bool]:
    return lambda: any(home.glob(f"datasets/{stage}/*/manifest.json"))


def _run_until(home: Path, condition: Callable[[], bool]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.infra.run_toy", str(home), "0.4"], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        (_driver, "first receipt"),
        (_a_worker, "second stage"),
        pytest.param(_driver, "between stages", marks=pytest.mark.slow),
        pytest.param(_driver, "second stage", marks=pytest.mark.slow),
        pytest.param(_a_worker, "first receipt", marks=pytest.mark.slow),
    ],
)
def test_kill_9_anywhere_then_the_same_command_gives_the_same_bytes(
    tmp_path: Path, reference: dict[str, str], moment: str, victim: Callable[[subprocess.Popen[str]], psutil.Process]
) -> None:
    condition = {
        "first receipt": _receipts(tmp_path, "numbers"),
        "between stages": _published(tmp_path, "numbers"),
        "second stage": _receipts(tmp_path, "squares"),
    }[moment]
    process = _run_until(tmp_path, condition)
    family = psutil.Process(process.pid).children(recursive=True)
    try:
        victim(process).send_signal(signal.SIGKILL)
    except ValueError:  # no worker was alive at that moment
        _driver(process).send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    again = subprocess.run(
        [sys.executable, "-m", "tests.infra.run_toy", str(tmp_path)], cwd=REPOSITORY, text=True,
        capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    assert again.stdout.split() == list(reference.values())


def test_documents_of_a_lost_unit_are_counted_as_failed(tmp_path: Path) -> None:
    run = context(tmp_path, max_failed_fraction=0.3)
    numbers = run_stage(StageNode(NUMBERS, NumbersConfig()), {}, run).dataset
    first = sorted(numbers.files("data/"), key=lambda output: output.digest)[0]
    numbers.local(first.path).write_bytes(b"no longer a table")
    squares = run_stage(StageNode(SQUARES, SquaresConfig()), {"numbers": numbers}, run).dataset
    counts = squares.manifest.counts
    assert (counts.incoming, counts.failed, len(squares.manifest.units.failed)) == (40, 10, 1)


def test_warnings_and_losses_stand_in_the_manifest_and_are_told_at_each_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = StageNode(NUMBERS, NumbersConfig(broken_units=1, warn="half of it is missing"))
    first = run_stage(numbers, {}, context(tmp_path, max_failed_fraction=0.5)).dataset
    lost = "incomplete: 1 of 4 units failed; missing is numbers-0 (10 bytes, records unknown)"
    lost += "; accepted by execution.max_failed_fraction=0.5"
    assert first.manifest.warnings == ["half of it is missing", lost]
    assert not first.manifest.complete
    assert first.manifest.units.failed[0].files == ["numbers-0"]
    squares = run_stage(StageNode(SQUARES, SquaresConfig()), {"numbers": first}, context(tmp_path)).dataset
    assert squares.manifest.complete
    assert [sentence.split(",")[0] for sentence in squares.manifest.warnings] == [
        f"built on numbers/{first.manifest.fingerprint}"
    ]
    capsys.readouterr()
    run_stage(StageNode(SQUARES, SquaresConfig()), {"numbers": first}, context(tmp_path))
    assert "squares: warning: built on numbers/" in capsys.readouterr().err
