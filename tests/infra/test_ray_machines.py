"""Data stages on a Ray of two machines (network namespaces with host names of their own); one goes dark while units run."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from infra.execution.ray_settings import ENVIRONMENT
from tests.infra.namespaces import Machine, available, two_machines
from tests.infra.run_toy import context, run_both
from tests.infra.test_launch import until
from tests.infra.toy import NumbersConfig
from tests.support import REPOSITORY, kill_family

HEALTH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 5}
FILES, UNIT_S = 16, 2.0
GOES_ON_S, NOTICED_S = 30, 130
"""The other machine goes on at once; a unit that says nothing is missed when 90 s and a ping's 20 s are over."""

DRIVER = """
import json, sys
from dataclasses import dataclass, replace
from infra.execution.ray import RayExecutor
from infra.execution.ray_settings import RaySettings
from tests.infra.run_toy import context, run_both
from tests.infra.toy import NumbersConfig

@dataclass(frozen=True)
class Telling:
    inner: RayExecutor

    def run(self, task, units):
        for outcome in self.inner.run(task, units):
            print(json.dumps([task.step, outcome.unit.id, outcome.attempts, outcome.error]), flush=True)
            yield outcome

folder, address, files, seconds = sys.argv[1:]
executor = Telling(RayExecutor(settings=RaySettings(address=address), backoff_s=0.1))
done = run_both(replace(context(folder), executor=executor), NumbersConfig(files=int(files), seconds_a_unit=float(seconds)))
print(json.dumps({name: outcome.dataset.digest for name, outcome in done.items()}), flush=True)
"""


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    pytest.importorskip("ray")
    if not available():
        pytest.skip("no network namespaces here, or we are not root")
    with two_machines(tmp_path / "machines") as pair:
        yield pair


def environment() -> dict[str, str]:
    """Without our settings for Ray: the nodes are told them, as the documentation says; the driver must know them itself."""
    inherited = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    return inherited | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip


def start_ray(
    machine: Machine, head: Machine, temp: str, log: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """``ray start --block``; the whole node ends with it.

    Every machine has a temporary folder of its own under the same path, as on disks of their own.
    """
    ray = Path(sys.executable).with_name("ray")
    common = f"{ray} start --block --node-ip-address {machine.address} --num-cpus 1 --object-store-memory 80000000"
    role = f"--head --port 6379 --include-dashboard false --temp-dir {temp} --system-config '{json.dumps(HEALTH)}'"
    if machine != head:
        disk = Path(temp).with_name(f"{Path(temp).name}-other")
        disk.mkdir()
        common = f"unshare --mount sh -c 'mount --bind {disk} {temp} && exec \"$@\"' sh {common}"
        role = f"--address {head.address}:6379"
    with log.open("wb") as stream:
        return subprocess.Popen(
            machine.command(f"{common} {role}"),
            cwd=REPOSITORY,
            env=environment | ENVIRONMENT,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def said(log: Path, words: bytes) -> bool:
    return words in log.read_bytes()


@pytest.mark.slow
def test_a_machine_that_goes_dark_costs_its_units_another_attempt(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    head, other = machines
    logs = [tmp_path / "head.log", tmp_path / "other.log"]
    home, shared = tmp_path / "ws", environment()
    temp = tempfile.mkdtemp(prefix="hw-ray-", dir="/tmp")  # sockets lie below it, and their paths must be short
    nodes: list[subprocess.Popen[bytes]] = []
    driver: subprocess.Popen[str] | None = None
    ended: list[tuple[str, str, int, str]] = []
    try:
        for machine, log in zip(machines, logs, strict=True):
            nodes.append(start_ray(machine, head, temp, log, shared))
            assert until(partial(said, log, b"Ray runtime started"), 120), log.read_text()[-2000:]
        driver = subprocess.Popen(
            head.command(f'{sys.executable} -c "$DRIVER" {home} {head.address}:6379 {FILES} {UNIT_S}'),
            cwd=REPOSITORY,
            env={**shared, "DRIVER": DRIVER},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        said_by_driver = (json.loads(line) for line in driver.stdout if line.startswith(('["', '{"')))
        seen = set[str]()
        while seen != {head.name, other.name}:  # both machines did some of the units
            ended.append(tuple(next(said_by_driver)))
            seen = {path.name.split("-")[0] for path in home.glob("work/*/*/journal/*")}
        time.sleep(UNIT_S / 2)  # the outcome may have been the other machine's: now it is in its next unit
        subprocess.run(["ip", "-n", other.name, "link", "set", other.name, "down"], check=True)
        heard = [time.monotonic()]
        for words in said_by_driver:
            heard.append(time.monotonic())
            if isinstance(words, dict):
                digests = words
            else:
                ended.append(tuple(words))
        assert driver.wait(120) == 0
        assert heard[3] - heard[0] < GOES_ON_S
        assert max(later - before for before, later in pairwise(heard)) < NOTICED_S
    finally:
        if driver is not None:
            driver.kill()
            driver.wait()
        for node in reversed(nodes):
            kill_family(node)
        for folder in (temp, f"{temp}-other"):
            shutil.rmtree(folder, ignore_errors=True)
    assert all(error == "" for *_, error in ended)
    assert len({(step, unit) for step, unit, *_ in ended}) == len(ended)
    assert max(attempts for _, _, attempts, _ in ended) >= 2
    here = run_both(context(tmp_path / "here"), NumbersConfig(files=FILES))
    assert digests == {name: outcome.dataset.digest for name, outcome in here.items()}
