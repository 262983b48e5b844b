"""Process groups on a list of machines: what each is told, and a job across two of them."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobSpec, write_request
from infra.launch.hosts import HostsLauncher, HostsSettings, render
from infra.launch.restart import run_job
from tests.infra.namespaces import Machine, available, two_machines
from tests.infra.test_launch import request_for, steps, until
from tests.support import REPOSITORY


def spec(**settings: Any) -> JobSpec:
    return JobSpec("tests.infra.fake_job", **{"nodes": 2, "env": {"PYTHONPATH": str(REPOSITORY)}, **settings})


def test_every_host_gets_the_same_line_but_for_its_number() -> None:
    settings = HostsSettings(names=("me@red", "blue"), python="/opt/hw/bin/python")
    job = JobSpec("training.pretrain", ranks=4, nodes=2, threads_per_rank=2, env={"NCCL_DEBUG": "WARN x"})
    first, second = render(job, settings, Path("/share/a work"), "try-1", 20555)
    assert first == (
        "/opt/hw/bin/python -P -m infra.launch.node --work-dir '/share/a work' --attempt try-1 --module training.pretrain"
        " --nodes 2 --ranks 4 --threads 2 --grace 20 --env 'NCCL_DEBUG=WARN x' --endpoint red:20555 --node 0"
    )
    assert second == first.removesuffix("0") + "1"


def test_too_few_hosts_and_a_host_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wants 2 nodes, and execution.hosts.names lists 1"):
        HostsLauncher(HostsSettings(names=("red",))).submit(spec(), request_for(tmp_path / "few", {}))
    launcher = HostsLauncher(HostsSettings(names=("red", "blue"), ssh=("false",)))
    with pytest.raises(HeadwaterError, match=r"could not be started on host (red|blue) \(exit status 1\)"):
        run_job(spec(), launcher, request_for(tmp_path / "dumb", {}), print)


# ---- two machines ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    if not available():
        pytest.skip("no network namespaces here, or we are not root")
    with two_machines(tmp_path_factory.mktemp("machines")) as pair:
        yield pair


def settings_of(machines: tuple[Machine, Machine], **changes: Any) -> HostsSettings:
    first, second = machines
    names = {"names": (first.name, second.name), "ssh": (str(first.enter),), "rendezvous_host": first.address}
    return HostsSettings.model_validate({**names, **changes})


@pytest.mark.slow
def test_a_job_across_two_machines_survives_a_killed_rank(tmp_path: Path, machines: tuple[Machine, Machine]) -> None:
    events: list[Mapping[str, Any]] = []
    work = request_for(tmp_path, {"3": "kill once"})
    assert run_job(spec(), HostsLauncher(settings_of(machines)), work, events.append).stats == {"steps": 10}
    assert steps(events) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    assert any("rank 0 was killed by signal 9" in str(event.get("message")) for event in events)
    hosts = {event["message"] for event in events if "waiting for" in str(event.get("message"))}
    assert any(machines[0].name in text for text in hosts)


@pytest.mark.slow
def test_printed_commands_are_waited_for(tmp_path: Path, machines: tuple[Machine, Machine]) -> None:
    """The user starts them, in whatever order."""
    work = request_for(tmp_path, {})
    started: list[subprocess.Popen[bytes]] = []
    told: list[str] = []

    def start(event: Mapping[str, Any]) -> None:
        if "start the commands" in str(event.get("message")):
            told.append(str(event["message"]))
            lines = (work / "logs/try-1.commands").read_text().splitlines()[1::2]
            for machine, line in reversed(list(zip(machines, lines, strict=True))):
                started.append(subprocess.Popen(machine.command(line), cwd=REPOSITORY))

    launcher = HostsLauncher(settings_of(machines, start="print"))

    def once(event: Mapping[str, Any]) -> None:
        if not started:
            start(event)

    assert run_job(spec(), launcher, work, once).stats == {"steps": 10}
    assert told
    assert [process.wait(30) for process in started] == [0, 0]


DRIVER = """
import sys
from pathlib import Path
from infra.job import load_request
from infra.launch.hosts import HostsLauncher, HostsSettings
from infra.launch.restart import run_job
from training.pretrain import PretrainConfig
work = Path(sys.argv[1])
spec = PretrainConfig.model_validate(load_request(work / "request.json").config).job_spec("training.pretrain")
run_job(spec, HostsLauncher(HostsSettings.model_validate_json(sys.argv[2])), work, lambda event: None)
"""


@pytest.mark.slow
def test_pretraining_goes_on_without_its_driver_and_the_model_is_the_same(
    tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    from tests.training.pretraining import PretrainJob, build_inputs, small_config

    inputs = build_inputs(tmp_path / "inputs")
    config = small_config(nodes=2, ranks=1, steps=40, checkpoint_every=10)
    here = PretrainJob(tmp_path / "here", inputs, config)
    here.run(ranks=2)
    there = PretrainJob(tmp_path / "there", inputs, config)
    work = there.request.work_dir
    there.request.dataset_root.mkdir(parents=True)
    work.mkdir(parents=True)
    write_request(there.request)

    def start() -> subprocess.Popen[bytes]:
        settings = settings_of(machines).model_dump_json()
        return subprocess.Popen([sys.executable, "-c", DRIVER, str(work), settings], cwd=REPOSITORY)

    driver = start()
    try:
        assert until(lambda: there.events("progress"), 120)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver = start()
        assert driver.wait(200) == 0
    finally:
        driver.kill()
        driver.wait()
    assert [path.name for path in (work / "logs").glob("*.commands")] == ["try-1.commands"]
    assert there.digest() == here.digest()
