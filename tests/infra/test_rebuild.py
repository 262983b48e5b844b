"""A forced build takes the place of what is published in one step, wherever a kill falls."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra import rebuild
from infra.errors import HeadwaterError
from infra.planning import Action
from infra.runner import run_stage
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.gc import GcSettings, collect
from infra.store.store import Store
from infra.work import RunContext
from tests.infra.run_toy import context
from tests.infra.toy import NUMBERS, NumbersConfig
from tests.support import InProcessExecutor

NODE = StageNode(NUMBERS, NumbersConfig())


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


def die(*arguments: object) -> None:
    raise Killed


def here(home: Path) -> RunContext:
    return replace(context(home), executor=InProcessExecutor())


@pytest.mark.parametrize(
    ("place", "which"),
    [("_exchange", "old"), ("_keep_work", "new"), ("fsync_folder", "new")],
    ids=["finished but not in its place", "in its place, the old one beside it", "the moment after"],
)
def test_a_kill_around_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, which: str) -> None:
    old = run_stage(NODE, {}, here(tmp_path)).dataset
    run = here(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(rebuild, place, die)
        with pytest.raises(Killed):
            run_stage(NODE, {}, run, force=True)
    left = Dataset.open(old.root)
    assert left.manifest.provenance.run == (old.manifest.provenance.run if which == "old" else run.record.id)
    assert Store.at(tmp_path).missing_outputs(left) == []
    again = run_stage(NODE, {}, here(tmp_path), force=True)
    assert again.action is Action.SKIP, "the same command only finishes what was all but done"
    assert again.dataset.manifest.provenance.run == run.record.id and again.dataset.digest == old.digest
    assert not any(tmp_path.glob("work/numbers/*/forced"))


def test_without_an_exchange_of_folders_a_kill_between_two_renames_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run_stage(NODE, {}, here(tmp_path)).dataset
    monkeypatch.setattr(rebuild, "_exchanged", lambda one, other: False)
    with monkeypatch.context() as patch:
        renames: list[object] = []
        rename = rebuild.os.rename

        def first_only(source: object, target: object) -> None:
            if renames:
                raise Killed
            renames.append(source)
            rename(source, target)  # type: ignore[arg-type]

        patch.setattr(rebuild.os, "rename", first_only)
        with pytest.raises(Killed):
            run_stage(NODE, {}, here(tmp_path), force=True)
    assert Store.at(tmp_path).find("numbers", old.manifest.fingerprint) is None
    again = run_stage(NODE, {}, here(tmp_path)).dataset
    assert again.digest == old.digest and again.manifest.provenance.run != old.manifest.provenance.run


def test_a_rebuild_that_other_code_began_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stage(NODE, {}, here(tmp_path))
    broken = StageNode(NUMBERS, NumbersConfig(broken_units=1))
    with pytest.raises(HeadwaterError):
        run_stage(broken, {}, here(tmp_path), force=True)
    (journal,) = tmp_path.glob("work/numbers/*/forced/journal")
    before = {path.name for path in journal.iterdir()}
    monkeypatch.setattr(rebuild, "stage_source", lambda stage, config: {"tests/infra/toy.py": "edited"})
    with pytest.raises(HeadwaterError):
        run_stage(broken, {}, here(tmp_path), force=True)
    assert not before & {path.name for path in journal.iterdir()}


def test_a_dataset_whose_files_are_damaged_is_built_beside_too(tmp_path: Path) -> None:
    old = run_stage(NODE, {}, here(tmp_path)).dataset
    old.local(old.files()[0].path).unlink()
    again = run_stage(NODE, {}, here(tmp_path))
    assert again.action is Action.RUN and again.dataset.digest == old.digest
    assert Store.at(tmp_path).missing_outputs(again.dataset) == []


def test_force_before_anything_is_published_starts_from_nothing_once(tmp_path: Path) -> None:
    broken = StageNode(NUMBERS, NumbersConfig(broken_units=1))
    with pytest.raises(HeadwaterError):
        run_stage(broken, {}, here(tmp_path))
    (journal,) = tmp_path.glob("work/numbers/*/journal")
    before = {path.name for path in journal.iterdir()}
    for _ in range(2):
        with pytest.raises(HeadwaterError):
            run_stage(broken, {}, here(tmp_path), force=True)
        after = {path.name for path in journal.iterdir()}
        assert not before & after
    assert len(after) == 1, "the second --force went on with the first"
    assert run_stage(NODE, {}, here(tmp_path), force=True).dataset.manifest.complete


def test_a_rebuild_that_nobody_goes_on_with_is_collected_and_the_dataset_stays(tmp_path: Path) -> None:
    old, store = run_stage(NODE, {}, here(tmp_path)).dataset, Store.at(tmp_path)
    store.set_ref("numbers", "toy", old.manifest.fingerprint)
    with pytest.raises(HeadwaterError):
        run_stage(StageNode(NUMBERS, NumbersConfig(broken_units=1)), {}, here(tmp_path), force=True)
    beside = tmp_path / "work/numbers" / old.manifest.fingerprint / "forced"
    assert beside.is_dir()
    assert collect(store, GcSettings(keep_days=1, grace_s=0)).removed == []
    (removal,) = collect(store, GcSettings(keep_days=0, grace_s=0)).removed
    assert "broken off" in removal.reason and not beside.exists()
    assert store.missing_outputs(Dataset.open(old.root)) == []
