"""The store: files appear whole or not at all, manifests are believed only when sound, labels move atomically."""

import os
from pathlib import Path

import pytest

from infra.errors import ConfigError, HeadwaterError, InputError
from infra.store.files import create_exclusive, publish_file, sha256_file, write_bytes
from infra.store.manifest import MANIFEST, output_digest
from infra.store.store import Store
from tests.support import adopt_dataset, write_dataset


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), publish_file(str(tmp_path / "d"), "data/x", tmp_path / "s") as pending:
        pending.path.write_text("half")
        raise RuntimeError
    assert not (tmp_path / "d").exists()
    assert list((tmp_path / "s").iterdir()) == []


def test_a_published_file_carries_its_size_and_digest(tmp_path: Path) -> None:
    with publish_file(str(tmp_path / "d"), "data/x.txt", tmp_path / "s") as pending:
        pending.path.write_text("whole")
    assert (tmp_path / "d/data/x.txt").read_text() == "whole"
    assert (pending.output.bytes, pending.output.digest) == (5, sha256_file(tmp_path / "d/data/x.txt"))


def test_exclusive_creation_has_one_winner(tmp_path: Path) -> None:
    wins = [create_exclusive(str(tmp_path / "one"), bytes([number])) for number in range(5)]
    assert wins == [True, False, False, False, False]
    assert (tmp_path / "one").read_bytes() == b"\0"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_workspace_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HeadwaterError, match="no permission to read or write"):
        write_bytes(tmp_path / "x", b"")


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(HeadwaterError, match="disk is full"), publish_file(str(tmp_path), "x", tmp_path / "s"):
        Path("/dev/full").write_text("x" * 100_000)


def test_undigested_files_do_not_enter_the_output_digest(tmp_path: Path) -> None:
    outputs = list(write_dataset(tmp_path / "a", "a", {"data/x": b"1", "data/log": b"2"}).manifest.outputs)
    without_log = [output for output in outputs if output.path != "data/log"]
    import dataclasses

    marked = [dataclasses.replace(o, digested=o.path != "data/log") for o in outputs]
    assert output_digest(marked) == output_digest(without_log) != output_digest(outputs)


def test_labels_names_and_prefixes_find_datasets(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    root = store.dataset_root("dedup", "0" * 12)
    write_dataset(root, "dedup", {"data/x": b"1"})
    store.set_ref("dedup", "demo", "0" * 12)
    for text in ("dedup@demo", "dedup/0000", str(root)):
        assert store.resolve(text).root == str(root)
    with pytest.raises(InputError, match=r"there is no dataset 'dedupe'.*Known datasets: dedup"):
        store.resolve("dedupe")
    with pytest.raises(ConfigError):
        store.set_ref("dedup", "../escape", "0" * 12)


def test_missing_outputs_are_noticed(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", "d", {"data/x": b"12", "data/y": b"34"})
    (tmp_path / "d/data/x").unlink()
    (tmp_path / "d/data/y").write_bytes(b"longer")
    assert Store.at(tmp_path).missing_outputs(dataset) == ["data/x", "data/y"]


def test_unknown_major_and_damaged_manifests_are_refused(tmp_path: Path) -> None:
    dataset = adopt_dataset(tmp_path / "d", "d", [])
    path = Path(dataset.root) / MANIFEST
    path.write_text(path.read_text().replace('"format": "1.0"', '"format": "2.0"'))
    with pytest.raises(InputError, match="format 2.0"):
        type(dataset).open(dataset.root)
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match="damaged"):
        type(dataset).open(dataset.root)


def test_a_remote_workspace_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="S3 bucket"):
        Store.at("memory://somewhere")


@pytest.mark.parametrize("address", ["s3:/bucket/x", "s3:bucket", "gs:/x", "file:x"])
def test_an_address_that_lacks_a_slash_is_no_folder_of_that_name(address: str) -> None:
    with pytest.raises(ConfigError, match="two slashes"):
        Store.at(address)


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="a file, not a folder"):
        Store.at(tmp_path / "x")
