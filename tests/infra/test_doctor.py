"""The doctor finds what is wrong, says how to mend it, and never takes a living process for a dead one."""

import os
import socket
from pathlib import Path

import pytest

import infra.doctor as doctor


def only(checks: list[doctor.Check]) -> doctor.Check:
    assert len(checks) == 1
    return checks[0]


def test_an_untouched_workspace_is_left_untouched(tmp_path: Path) -> None:
    home = tmp_path / "new"
    assert only(list(doctor.file_system(home))).state == "ok"
    assert not home.exists()


def test_two_fasttext_packages_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name in ("fasttext-community", "fasttext-predict"))
    check = only(list(doctor.one_fasttext()))
    assert check.state == "fail" and "fasttext-predict" in check.detail


def test_an_installation_without_torch_is_not_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "torch")
    check = only(list(doctor.gpus()))
    assert check.state == "ok" and "data stages only" in check.detail


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
