"""What a campaign of kills rests on: it knows its victims, goes on where it was stopped, and notices a difference."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.store.files import write_json
from tests.chaos.campaign import Campaign, Kill, Silence, compare, stage_at_work
from tests.chaos.victims import victims
from tests.docker.engine import Engine
from tests.flows.cluster import Cluster, wait_for
from tests.support import write_dataset


def test_processes_of_a_pool_are_told_from_what_started_them(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "workspace", "toy")
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.infra.run_toy", str(tmp_path / "workspace"), "0.4"],
        env={**os.environ, "HEADWATER_HOME": str(cluster.workspace)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: len(victims(cluster).get("pool", ())) == 2, 30, "two workers")
        assert stage_at_work(cluster) == "numbers"
        assert not {"driver", "rank"} & set(victims(cluster))
        victims(cluster)["pool"][0].kill()
        assert run.wait(60) == 0, "the run survives the kill of a worker"
    finally:
        run.kill()
        run.wait()
    wait_for(lambda: not cluster.family(), 30, "the fork server to follow its driver")


def campaign(folder: Path) -> Campaign:
    return Campaign.open(folder, "smoke", 7, 2, (0.0, 1.0))


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    first = campaign(tmp_path)
    first.kills += [Kill("rank", "pretrain", 1), Kill("server", "sft", 1)]
    first.save()
    again = campaign(tmp_path)
    assert again.kills == first.kills
    assert not again.done  # no run completed after the last kill


def test_a_campaign_in_containers_does_not_go_on_outside(tmp_path: Path) -> None:
    Campaign.open(tmp_path, "smoke", 7, 2, (0.0, 1.0), Engine("")).save()
    with pytest.raises(SystemExit, match="in containers"):
        campaign(tmp_path)


def test_a_run_that_differs_is_a_failure(tmp_path: Path) -> None:
    now = campaign(tmp_path)
    made = write_dataset(now.home / "datasets" / "numbers" / ("0" * 12), "numbers", {"data/a": b"1"})
    now.kills += [Kill("rank", "pretrain", 1)]
    compare(now, {"numbers": made.digest}, print)
    assert now.different == []
    now.kills += [Kill("rank", "pretrain", 2)]
    write_dataset(now.home / "datasets" / "numbers" / ("0" * 12), "numbers", {"data/a": b"2"})
    compare(now, {"numbers": made.digest}, print)
    assert now.different == ["numbers"]
    assert now.done


def test_a_running_run_without_a_process_is_given_up_soon() -> None:
    before = time.monotonic() - 10
    silence = Silence({"gone": before, "awaited": before, "back": before})
    states = {"gone": "RUNNING", "awaited": "PENDING", "back": "RUNNING", "new": "RUNNING"}
    assert silence.lost(states, {"back", None}) == ["gone"]
    assert set(silence.since) == {"gone", "awaited", "new"}


def test_what_a_killed_run_said_last_is_not_believed(tmp_path: Path) -> None:
    for pid, began in ((os.getpid(), psutil.Process().create_time()), (os.getpid(), 1.0)):  # the second is long gone
        run = tmp_path / "runs" / f"of-{began}"
        run.mkdir(parents=True)
        write_json(run / "run.json", {"pid": pid, "process_started": began})
        stage = "dedup" if began == 1.0 else "ingest"
        (run / "events.jsonl").write_text(f'{{"type": "stage_started", "stage": "{stage}"}}\n')
    assert stage_at_work(Cluster(tmp_path, "smoke")) == "ingest"
