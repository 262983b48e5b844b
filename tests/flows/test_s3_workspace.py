"""The recipe in an S3 bucket: the same digests as in a folder, and every reading command works there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.sample.packages import cache_folder
from tests.s3 import new_bucket, s3_server


def headwater(*arguments: str, workspace: str) -> Any:
    """A command's JSON answer."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments, "--workspace", workspace, "--json"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def digests(result: Any) -> dict[str, str]:
    return {entry["stage"]: entry["digest"] for entry in result["stages"]}


SMALL = (
    "sample.pages=40",
    "sample.code_files=30",
    "sample.conversations=100",
)


@pytest.mark.slow
def test_the_smoke_recipe_up_to_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = cache_folder("")  # the copies of remote files are this test's own, the downloaded packages everybody's
    changes = [word for change in (*SMALL, f"sample.cache={packages}") for word in ("--set", change)]
    recipe = ("run", "smoke", "--stop-after", "shards", "--no-prefect", *changes)
    expected = digests(headwater(*recipe, workspace=str(tmp_path / "ws")))
    with s3_server(tmp_path / "cache") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bucket = f"{new_bucket()}/ws"
        assert digests(headwater(*recipe, workspace=bucket)) == expected
        status = headwater("status", workspace=bucket)
        assert {row["name"]: row["digest"] for row in status["datasets"]} == expected
        assert [run["state"] for run in status["runs"]] == ["completed"]
        plans = headwater("plan", "smoke", *changes, workspace=bucket)["stages"]
        assert all(entry["action"] == "SKIP" for entry in plans if entry["stage"] in expected)
        dropped = headwater("inspect", "quality", workspace=bucket)["dropped_samples"][0]
        history = headwater("why", dropped["id"], workspace=bucket)["history"]
        assert history[-1]["verdict"] == "dropped" and history[-1]["stage"] == "quality"
        assert Path(headwater("report", "smoke", workspace=bucket)["report"]).stat().st_size > 10_000
