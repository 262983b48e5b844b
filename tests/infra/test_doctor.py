"""The doctor finds what is wrong, says how to mend it, and never takes a living process for a dead one."""

import json
import os
import socket
from importlib import metadata
from pathlib import Path

import pytest

import infra.doctor as doctor
from infra.store.lease import Lease
from infra.store.store import Store


def only(checks: list[doctor.Check]) -> doctor.Check:
    assert len(checks) == 1
    return checks[0]


def test_an_untouched_workspace_is_left_untouched(tmp_path: Path) -> None:
    home = tmp_path / "new"
    assert only(list(doctor.file_system(home))).state == "ok"
    assert not home.exists()


def test_a_version_out_of_bounds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.0" if name == "sqlalchemy" else real(name))
    check = only(list(doctor.package_versions()))
    assert check.state == "fail" and "sqlalchemy 2.1.0" in check.detail and "pip install" in check.remedy


def test_a_build_for_other_hardware_is_the_same_release(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cu130" if name == "torch" else real(name))
    assert only(list(doctor.package_versions())).state == "ok"


def test_two_fasttext_packages_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name in ("fasttext-community", "fasttext-predict"))
    check = only(list(doctor.one_fasttext()))
    assert check.state == "fail" and "fasttext-predict" in check.detail


def test_a_lock_that_nobody_holds_is_removed_and_one_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    build = tmp_path / "headwater/torch-extensions/cpu_adam"
    build.mkdir(parents=True)
    (build / "lock").touch()
    assert only(list(doctor.jit_locks(fix=False))).state == "warn"
    with (build / "lock").open("rb"):
        assert only(list(doctor.jit_locks(fix=True))).state == "warn"
    assert only(list(doctor.jit_locks(fix=True))).state == "ok"
    assert not (build / "lock").exists()


def test_leases_of_dead_and_living_runs_are_told_apart(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    lease = Lease(store.work_root("dedup", "0" * 12))
    lease.acquire()
    assert "1 held" in only(list(doctor.leases(store))).detail
    dead = store.work_root("quality", "1" * 12)
    (dead / "journal").mkdir(parents=True)
    holder = {"owner": "x", "host": "elsewhere", "pid": 1, "process_started": 0.0, "heartbeat": 0.0}
    (dead / "lease.json").write_text(json.dumps(holder))
    check = only(list(doctor.leases(store)))
    assert check.state == "warn" and "quality/1111" in check.detail
    assert "quality" in only(list(doctor.work_folders(store))).detail
    lease.release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_workspace_without_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "no permission" in only(list(doctor.file_system(tmp_path / "x"))).detail


def test_a_port_in_use_is_noticed() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not doctor.free_port(listener.getsockname()[1])


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken():  # type: ignore[no-untyped-def]
        raise RuntimeError("no such thing")
        yield

    assert only(list(doctor.guarded("gpu", broken))).state == "fail"
