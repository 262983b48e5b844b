"""A workspace is destroyed and comes back, byte by byte, from the newest backup or an older one."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from infra.errors import HeadwaterError, InputError
from infra.execution.local import InProcessExecutor
from infra.store.backup import back_up, load_snapshot, restore, snapshots
from infra.store.files import file_sizes
from infra.store.store import Store
from tests.infra.run_toy import context, run_both
from tests.infra.toy import NumbersConfig


def built(home: Path, files: int = 3) -> Store:
    run = dataclasses.replace(context(home), executor=InProcessExecutor())
    run_both(run, NumbersConfig(files=files))
    run.record.event("run_ended", state="completed")
    return Store.at(home)


def contents(store: Store) -> dict[str, bytes]:
    wanted = ("datasets/", "runs/")
    return {path: (store.home / path).read_bytes() for path in file_sizes(store.home) if path.startswith(wanted)}


def test_a_destroyed_workspace_comes_back(tmp_path: Path) -> None:
    store = built(tmp_path / "ws")
    before = contents(store)
    done = back_up(store, str(tmp_path / "vault"), {})
    shutil.rmtree(store.home)
    restore(store, str(tmp_path / "vault"), load_snapshot(str(tmp_path / "vault"), None))
    assert contents(store) == before and done.datasets == 2
    assert all(store.missing_outputs(dataset) == [] for dataset in store.datasets())
    again = run_both(dataclasses.replace(context(store.home), executor=InProcessExecutor()), NumbersConfig(files=3))
    assert {outcome.action.value for outcome in again.values()} == {"SKIP"}


def test_the_next_backup_copies_only_what_is_new_and_the_old_one_stays(tmp_path: Path) -> None:
    vault = str(tmp_path / "vault")
    store = built(tmp_path / "ws")
    first = back_up(store, vault, {})
    same = back_up(store, vault, {})
    assert first.bytes >= first.copied_bytes > same.copied_bytes == 0
    old = contents(store)
    built(tmp_path / "ws", files=4)
    back_up(store, vault, {})
    shutil.rmtree(store.home)
    restore(store, vault, load_snapshot(vault, first.name))
    assert contents(store) == old and len(snapshots(vault)) == 3


def test_only_what_is_missing_or_damaged_is_brought_back(tmp_path: Path) -> None:
    vault = str(tmp_path / "vault")
    store = built(tmp_path / "ws")
    before = contents(store)
    found = back_up(store, vault, {})
    victim = next(path for path in before if path.startswith("datasets/") and "/data/" in path)
    (store.home / victim).write_bytes(b"cut")
    written = restore(store, vault, found)
    assert contents(store) == before and written < found.bytes


def test_rotten_bytes_are_found_on_the_way_in_and_out(tmp_path: Path) -> None:
    vault = str(tmp_path / "vault")
    store = built(tmp_path / "ws")
    output = next(iter(store.datasets())).files()[0]
    path = next(iter(store.datasets())).local(output.path)
    whole = path.read_bytes()
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(InputError, match="does not have the bytes"):
        back_up(store, vault, {})
    assert snapshots(vault) == []
    path.write_bytes(whole)
    found = back_up(store, vault, {})
    kept = tmp_path / "vault/objects" / output.digest[:2] / output.digest
    kept.write_bytes(b"x" * len(whole))
    shutil.rmtree(store.home)
    with pytest.raises(InputError, match="is damaged"):
        restore(store, vault, found)


def test_newer_labels_are_not_moved_back_unasked(tmp_path: Path) -> None:
    vault = str(tmp_path / "vault")
    store = built(tmp_path / "ws")
    old = store.labels("numbers")
    found = back_up(store, vault, {})
    built(tmp_path / "ws", files=4)
    with pytest.raises(HeadwaterError, match="newer"):
        restore(store, vault, found)
    restore(store, vault, found, overwrite=True)
    assert store.labels("numbers") == old


def test_links_take_no_space(tmp_path: Path) -> None:
    store = built(tmp_path / "ws")
    done = back_up(store, str(tmp_path / "vault"), {}, link=True)
    dataset = next(iter(store.datasets()))
    assert dataset.local(dataset.files()[0].path).stat().st_nlink == 2 and done.copied_bytes < done.bytes


def test_a_backup_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    store = built(tmp_path / "ws")
    done = back_up(store, str(vault), {})
    path = vault / f"snapshots/{done.name}.json"
    raw = json.loads(path.read_text())
    raw["files"][0]["path"] = "../outside"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match="outside the workspace"):
        restore(Store.at(tmp_path / "new"), str(vault), load_snapshot(str(vault), None))
    assert not (tmp_path / "outside").exists()


def test_no_backup_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no backup"):
        load_snapshot(str(tmp_path), None)
