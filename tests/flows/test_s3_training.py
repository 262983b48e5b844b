"""Pretraining in an S3 workspace: killed, it goes on from its checkpoint on the machine that made it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.store.files import file_sizes, filesystem
from pipeline.sample.packages import cache_folder
from tests.flows.test_s3_workspace import SMALL, digests, headwater
from tests.infra.test_launch import until
from tests.s3 import new_bucket, s3_server


def checkpoints(cache: Path) -> list[Path]:
    found = cache.glob("workspaces/*/work/pretrain/*/checkpoints/step-*")
    return [path for path in found if path.suffix != ".tmp"]


@pytest.mark.slow
def test_a_killed_pretraining_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*SMALL, f"sample.cache={cache_folder('')}", "pretrain.checkpoint_every=2")
    changes = [word for change in settings for word in ("--set", change)]
    here, cache = str(tmp_path / "ws"), tmp_path / "cache"
    pretrain = ("run", "smoke", "--only", "pretrain", "--no-prefect", *changes)
    headwater("run", "smoke", "--stop-after", "shards", "--no-prefect", *changes, workspace=here)
    without = shutil.copytree(f"{here}/datasets", tmp_path / "without-pretraining")
    expected = digests(headwater(*pretrain, workspace=here))
    with s3_server(cache) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bucket = f"{new_bucket()}/ws"
        fs, place = filesystem(bucket)
        fs.put(f"{without}/", f"{place}/datasets/", recursive=True)
        killed = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", *pretrain, "--workspace", bucket], stderr=subprocess.DEVNULL
        )
        try:
            assert until(lambda: bool(checkpoints(cache)), 180)
        finally:
            killed.kill()
            killed.wait()
        again = headwater(*pretrain, workspace=bucket)
        assert [stage["action"] for stage in again["stages"]] == ["RESUME"]
        assert digests(again) == expected
        assert not any("checkpoint" in path for path in file_sizes(bucket)), "they stay on their machine"
