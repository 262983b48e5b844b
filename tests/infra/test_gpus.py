"""A process group that this machine's GPUs cannot take is refused in a sentence before any of its processes starts."""

from pathlib import Path

import pytest

import infra.gpus
import infra.launch.local
import infra.launch.torchrun
from infra.errors import ConfigError
from infra.gpus import Gpu, check_gpus, nvidia_gpus
from infra.job import JobSpec
from infra.launch.local import LocalLauncher
from training.pretrain import STAGE, PretrainConfig


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\nprintf 'NVIDIA H200, 9.0\\nNVIDIA A100, 80GB, 8.0\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(driver.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(infra.gpus, "has_gpu", lambda: True)
    monkeypatch.setattr(infra.gpus, "torch_for_cpu", lambda: False)


def test_more_ranks_than_gpus_are_refused_with_how_many_would_do(
    two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nvidia_gpus() == [Gpu("NVIDIA H200", 9.0), Gpu("NVIDIA A100, 80GB", 8.0)]
    check_gpus(JobSpec("training.pretrain", ranks=2))
    with pytest.raises(
        ConfigError,
        match=r"starts 4 ranks, a GPU each, and this machine has 2 .*Set ranks to 2 or fewer, execution.device to cpu",
    ):
        LocalLauncher().submit(JobSpec("training.pretrain", ranks=4), tmp_path / "work")
    assert not (tmp_path / "work").exists(), "nothing was started"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ConfigError, match="this machine has 1"):
        check_gpus(JobSpec("training.pretrain", ranks=2))


def test_on_the_cpu_there_are_as_many_ranks_as_asked_for(
    two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment(launcher: LocalLauncher, spec: JobSpec) -> set[str]:
        handle = launcher.submit(spec, tmp_path / launcher.device)
        launcher.wait(handle, lambda: None)
        return set((tmp_path / launcher.device / "logs" / f"{handle.detail['attempt']}.log").read_text().splitlines())

    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(infra.launch.local, "guarded", lambda command, grace_s: ["/usr/bin/env"])
    monkeypatch.setattr(infra.launch.torchrun, "has_gpu", lambda environ: environ.get("CUDA_VISIBLE_DEVICES") != "")
    assert {"CUDA_VISIBLE_DEVICES=", "DS_ACCELERATOR=cpu"} <= environment(
        LocalLauncher("cpu"), JobSpec("training.pretrain", ranks=4)
    )
    with_gpus = environment(LocalLauncher(), JobSpec("training.pretrain", ranks=2))
    assert not {"CUDA_VISIBLE_DEVICES=", "DS_ACCELERATOR=cpu"} & with_gpus
    with pytest.raises(ConfigError, match=r"float8: it has a CPU"):
        LocalLauncher("cpu").submit(JobSpec("training.pretrain", float8=True), tmp_path / "third")


def test_float8_is_refused_where_a_gpu_lacks_it(
    two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = STAGE.job(PretrainConfig.model_validate({"parallel": {"float8": True}}))
    with pytest.raises(ConfigError, match=r"not multiply in float8: it has NVIDIA A100, 80GB, not .* 8.9 or later"):
        LocalLauncher().submit(asked, tmp_path / "work")
    monkeypatch.setattr(infra.gpus, "has_gpu", lambda: False)
    with pytest.raises(ConfigError, match="float8: it has a CPU"):
        LocalLauncher().submit(asked, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    check_gpus(STAGE.job(PretrainConfig()))


def test_gpus_that_nobody_can_tell_of_are_left_to_the_ranks(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    check_gpus(JobSpec("training.pretrain", ranks=64, float8=True))


def test_a_card_whose_capability_the_driver_does_not_know(two_gpus: None, tmp_path: Path) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nprintf 'Old card, [N/A]\\n'\n")
    assert [gpu.name for gpu in nvidia_gpus()] == ["Old card"]
    check_gpus(JobSpec("training.pretrain", ranks=1, float8=True))
