"""Units that fail for good: what is named, what is published, and what the next run does again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from infra.errors import HeadwaterError, InputError
from infra.execution.base import UnitOutcome, UnitTask
from infra.incomplete import complete_fingerprint, incomplete_version
from infra.planning import Action, StageSelection, plan
from infra.runner import run_stage
from infra.stage import StageNode, Unit
from infra.store.dataset import Dataset
from infra.store.gc import GcSettings, collect
from infra.store.store import Store
from infra.units import HOPELESS
from infra.work import RunContext
from tests.infra.run_toy import context, run_both
from tests.infra.toy import NUMBERS, SQUARES, NumbersConfig, SquaresConfig
from tests.support import REPOSITORY, InProcessExecutor


@dataclass
class Watched:
    """Runs units here and remembers which."""

    seen: list[str] = field(default_factory=list)

    def run(self, task: UnitTask, units: Iterable[Unit]) -> Iterator[UnitOutcome]:
        for outcome in InProcessExecutor().run(task, units):
            self.seen.append(f"{task.step}/{outcome.unit.id}")
            yield outcome


def here(home: Path, tolerate: float = 0.0, watched: Watched | None = None) -> RunContext:
    return replace(context(home, max_failed_fraction=tolerate), executor=watched or InProcessExecutor())


def numbers(broken: int, **more: object) -> StageNode:
    return StageNode(NUMBERS, NumbersConfig.model_validate({"broken_units": broken, **more}))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """What a run without losses publishes."""
    done = run_both(here(tmp_path_factory.mktemp("reference")))
    return {name: outcome.dataset for name, outcome in done.items()}


def test_the_others_are_finished_then_the_stage_fails_and_names_what_is_lost(tmp_path: Path) -> None:
    watched = Watched()
    with pytest.raises(InputError) as caught:
        run_stage(numbers(1), {}, here(tmp_path, watched=watched))
    assert "1 of 4 units failed; missing is numbers-0 (10 bytes, records unknown)" in caught.value.error
    assert "this unit is broken" in caught.value.error
    assert "--set execution.max_failed_fraction=0.25" in caught.value.remedy
    assert len(watched.seen) == 4 and list(Store.at(tmp_path).datasets()) == []
    watched.seen.clear()
    published = run_stage(numbers(1), {}, here(tmp_path, 0.25, watched)).dataset
    assert len(watched.seen) == 1, "only the lost unit is tried, and what there is is published at once"
    assert not published.manifest.complete and published.manifest.rows == 30


def test_the_next_run_tries_the_missing_units_alone_and_publishes_the_whole(
    tmp_path: Path, reference: dict[str, Dataset]
) -> None:
    partial = run_stage(numbers(1), {}, here(tmp_path, 0.5)).dataset
    assert partial.manifest.fingerprint != reference["numbers"].manifest.fingerprint
    assert complete_fingerprint(partial.manifest) == reference["numbers"].manifest.fingerprint
    squares = run_stage(StageNode(SQUARES, SquaresConfig()), {"numbers": partial}, here(tmp_path)).dataset
    watched = Watched()
    whole = run_stage(numbers(0), {}, here(tmp_path, watched=watched))
    assert (whole.action, len(watched.seen)) == (Action.RESUME, 1)
    assert whole.dataset.digest == reference["numbers"].digest and whole.dataset.manifest.complete
    again = run_stage(StageNode(SQUARES, SquaresConfig()), {"numbers": whole.dataset}, here(tmp_path)).dataset
    assert again.digest == reference["squares"].digest != squares.digest
    assert Dataset.open(partial.root).manifest == partial.manifest, "what was published stays as it was"
    assert Store.at(tmp_path).missing_outputs(partial) == []
    assert run_stage(numbers(0), {}, here(tmp_path)).action is Action.SKIP


def test_a_unit_that_is_lost_again_changes_nothing(tmp_path: Path) -> None:
    first = run_stage(numbers(1), {}, here(tmp_path, 0.5)).dataset
    watched = Watched()
    again = run_stage(numbers(1), {}, here(tmp_path, 0.5, watched)).dataset
    assert again.root == first.root and len(watched.seen) == 1
    with pytest.raises(InputError, match="1 of 4 units failed"):
        run_stage(numbers(1), {}, here(tmp_path))
    assert run_stage(numbers(2), {}, here(tmp_path, 0.5)).dataset.root == first.root, "finished units stay finished"


def break_input(dataset: Dataset) -> tuple[Path, bytes]:
    path = dataset.local(dataset.files("data/")[1].path)
    whole = path.read_bytes()
    path.write_bytes(b"no longer a table")
    return path, whole


def test_later_steps_are_done_again_when_a_lost_unit_of_an_earlier_one_is_there(
    tmp_path: Path, reference: dict[str, Dataset]
) -> None:
    made = run_stage(numbers(0), {}, here(tmp_path)).dataset
    path, whole = break_input(made)
    node = StageNode(SQUARES, SquaresConfig())
    partial = run_stage(node, {"numbers": made}, here(tmp_path, 0.5)).dataset
    counts = partial.manifest.counts
    assert (counts.incoming, counts.failed, partial.manifest.units.failed[0].records) == (40, 10, 10)
    watched = Watched()
    run_stage(node, {"numbers": made}, here(tmp_path, 0.5, watched))
    assert [step.split("/")[0] for step in watched.seen] == ["split"], "in vain: nothing else is done again"
    path.write_bytes(whole)
    watched.seen.clear()
    squares = run_stage(node, {"numbers": made}, here(tmp_path, watched=watched)).dataset
    assert sorted(step.split("/")[0] for step in watched.seen) == ["split"] + ["square"] * 4
    assert squares.digest == reference["squares"].digest and squares.manifest.counts.failed == 0


def test_a_plan_says_what_is_missing_and_a_part_that_is_not_selected_is_used_all_the_same(tmp_path: Path) -> None:
    partial = run_stage(numbers(1), {}, here(tmp_path, 0.5)).dataset
    nodes, store = [numbers(0), StageNode(SQUARES, SquaresConfig())], Store.at(tmp_path)
    first, second = plan(nodes, store, StageSelection(), "toy")
    assert first.action is Action.RESUME and "missing is numbers-0" in first.reason
    assert partial.manifest.fingerprint in first.reason and second.action is Action.RUN
    first, second = plan(nodes, store, StageSelection(start_at="squares"), "toy")
    assert (first.action, first.dataset and first.dataset.root) == (Action.SKIP, partial.root)
    assert second.action is Action.RUN and second.fingerprint is not None


def test_collection_keeps_what_would_complete_a_dataset_as_long_as_that_is_kept(tmp_path: Path) -> None:
    partial = run_stage(numbers(1), {}, here(tmp_path, 0.5)).dataset
    store = Store.at(tmp_path)
    store.set_ref("numbers", "toy", partial.manifest.fingerprint)
    for run in (tmp_path / "runs").iterdir():
        (run / "run.json").unlink()  # a living process's run protects what it planned
    none = GcSettings(keep_days=0, keep_last=0, grace_s=0)
    assert collect(store, none).removed == []
    watched = Watched()
    whole = run_stage(numbers(0), {}, here(tmp_path, watched=watched)).dataset
    assert len(watched.seen) == 1
    store.set_ref("numbers", "toy", whole.manifest.fingerprint)
    for run in (tmp_path / "runs").glob("*/run.json"):
        run.unlink()
    assert [removal.fingerprint for removal in collect(store, none).removed] == [partial.manifest.fingerprint]
    assert incomplete_version(store, "numbers", whole.manifest.fingerprint, "toy") is None


def test_where_every_unit_fails_the_rest_is_not_tried(tmp_path: Path) -> None:
    watched = Watched()
    with pytest.raises(InputError, match="every unit so far failed"):
        run_stage(numbers(200, files=200, rows=1), {}, here(tmp_path, watched=watched))
    assert len(watched.seen) == HOPELESS


KILLED = """
import sys
from pathlib import Path
from tests.infra.test_incomplete import here, numbers
from infra.runner import run_stage
broken, tolerate, force = int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "force"
print(run_stage(numbers(broken, seconds_a_unit=float(sys.argv[5])), {}, here(Path(sys.argv[1]), tolerate), force=force)
      .dataset.digest)
"""


def command(home: Path, broken: int, tolerate: float, how: str, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(home), str(broken), str(tolerate), how, str(pause)], cwd=REPOSITORY, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill_when(process: subprocess.Popen[str], home: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not any(home.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_killed_retry_leaves_what_was_published_and_goes_on(tmp_path: Path, reference: dict[str, Dataset]) -> None:
    partial = run_stage(numbers(3), {}, here(tmp_path, 0.75)).dataset
    journals = set(tmp_path.glob("work/numbers/*/journal/*.jsonl"))
    process = command(tmp_path, 0, 0.0, "", 0.5)
    deadline = time.monotonic() + 60
    while set(tmp_path.glob("work/numbers/*/journal/*.jsonl")) == journals and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert Store.at(tmp_path).missing_outputs(Dataset.open(partial.root)) == []
    watched = Watched()
    whole = run_stage(numbers(0), {}, here(tmp_path, watched=watched)).dataset
    assert whole.digest == reference["numbers"].digest and 1 <= len(watched.seen) < 3


def test_a_killed_force_leaves_the_dataset_and_the_same_command_goes_on(
    tmp_path: Path, reference: dict[str, Dataset]
) -> None:
    old = run_stage(numbers(0), {}, here(tmp_path)).dataset
    kill_when(command(tmp_path, 0, 0.0, "force", 0.5), tmp_path, "work/numbers/*/forced/journal/*.jsonl")
    store = Store.at(tmp_path)
    assert Dataset.open(old.root).manifest == old.manifest and store.missing_outputs(old) == []
    assert run_stage(numbers(0), {}, here(tmp_path)).action is Action.SKIP
    (planned,) = plan([numbers(0)], store, StageSelection(force=("numbers",)), "toy")
    assert planned.action is Action.RESUME and "forced" in planned.reason
    watched = Watched()
    forced = run_stage(numbers(0), {}, here(tmp_path, watched=watched), force=True)
    assert (forced.action, forced.dataset.root) == (Action.RESUME, old.root) and 1 <= len(watched.seen) < 4
    assert forced.dataset.digest == reference["numbers"].digest
    assert forced.dataset.manifest.provenance.run != old.manifest.provenance.run
    assert not any(tmp_path.glob("work/numbers/*/forced"))


def test_a_force_that_loses_a_unit_does_not_replace_what_is_whole(tmp_path: Path) -> None:
    old = run_stage(numbers(0), {}, here(tmp_path)).dataset
    with pytest.raises(HeadwaterError, match="the dataset that is published stays"):
        run_stage(numbers(1), {}, here(tmp_path, 0.5), force=True)
    assert Dataset.open(old.root).manifest == old.manifest
    watched = Watched()
    forced = run_stage(numbers(0), {}, here(tmp_path, watched=watched), force=True)
    assert len(watched.seen) == 1 and forced.dataset.digest == old.digest
