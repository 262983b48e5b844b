"""Ray across two machines (network namespaces with host names of their own): one of them goes dark while units run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.infra.namespaces import Machine, available, two_machines
from tests.support import REPOSITORY

HEALTH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 5}

DRIVER = """
import json, os, socket, sys
from pathlib import Path
from infra.execution.ray import RayExecutor, RaySettings
from tests.infra.test_execution import task, unit
folder = Path(sys.argv[1])
units = [unit(f"u{number:02}", "sleep", seconds=2, text=str(number)) for number in range(12)]
executor = RayExecutor(RaySettings(address=sys.argv[2]), backoff_s=0.1)
for outcome in executor.run(task(folder), units):
    print(json.dumps([outcome.unit.id, outcome.attempts, outcome.error]), flush=True)
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    pytest.importorskip("ray")
    if not available():
        pytest.skip("no network namespaces here, or we are not root")
    with two_machines(tmp_path / "machines") as pair:
        yield pair


def start_ray(machine: Machine, head: Machine, log: Path) -> subprocess.Popen[bytes]:
    """``ray start --block``; the whole node ends with it."""
    ray = Path(sys.executable).with_name("ray")
    common = f"{ray} start --block --node-ip-address {machine.address} --num-cpus 1 --object-store-memory 80000000"
    role = f"--head --port 6379 --include-dashboard false --system-config '{json.dumps(HEALTH)}'"
    if machine != head:
        role = f"--address {head.address}:6379"
    temp = log.parent / f"ray-{machine.name}"
    with log.open("wb") as stream:
        return subprocess.Popen(
            machine.command(f"{common} {role} " + (f"--temp-dir {temp}" if machine == head else "")),
            cwd=REPOSITORY,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(REPOSITORY)},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ray's daemons are in sessions of their own: by descent, not by name."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for each in family:
        each.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


@pytest.mark.slow
def test_a_machine_that_goes_dark_costs_another_attempt(tmp_path: Path, machines: tuple[Machine, Machine]) -> None:
    head, other = machines
    nodes = [start_ray(head, head, tmp_path / "head.log")]
    try:
        time.sleep(8)
        nodes.append(start_ray(other, head, tmp_path / "other.log"))
        time.sleep(8)
        driver = subprocess.Popen(
            head.command(f'{sys.executable} -c "$DRIVER" {tmp_path} {head.address}:6379'),
            cwd=REPOSITORY,
            env={**os.environ, "DRIVER": DRIVER, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        ended = [json.loads(driver.stdout.readline()) for _ in range(4)]
        journals = {path.name.split("-")[0] for path in (tmp_path / "journal").iterdir()}
        assert journals == {head.name, other.name}, "both machines did some of the units"
        subprocess.run(["ip", "-n", other.name, "link", "set", other.name, "down"], check=True)
        ended += [json.loads(line) for line in driver.stdout]
        assert driver.wait(120) == 0
    finally:
        for node in reversed(nodes):
            end(node)
    assert sorted(unit for unit, _, _ in ended) == [f"u{number:02}" for number in range(12)]
    assert all(error == "" for _, _, error in ended)
    assert max(attempts for _, attempts, _ in ended) == 2
    assert len(list((tmp_path / "dataset/data").iterdir())) == 12
