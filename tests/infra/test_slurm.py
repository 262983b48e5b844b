"""Process groups on SLURM: what is submitted, and that a job comes to its result on two nodes whatever happens to it."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, HeadwaterError
from infra.job import JobSpec, write_request
from infra.launch.restart import run_job
from infra.launch.slurm import SlurmLauncher, SlurmSettings, render
from infra.store.files import read_json
from tests.infra.slurm_cluster import available, slurm_cluster
from tests.infra.test_launch import request_for, steps, until
from tests.support import REPOSITORY

SETTINGS = SlurmSettings(rendezvous_host="127.0.0.1", poll_s=0.3, grace_s=20)


def spec(**settings: Any) -> JobSpec:
    return JobSpec("tests.infra.fake_job", **{"nodes": 2, "env": {"PYTHONPATH": str(REPOSITORY)}, **settings})


# ---- the script -----------------------------------------------------------------------------------------------------

SCRIPT = r"""#!/bin/bash
#SBATCH --job-name=headwater-pretrain-1a2b3c4d5e6f-a6156f76
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=24
#SBATCH --output=/share/work/pretrain/1a2b3c4d5e6f/logs/try-1.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --partition=gpu
#SBATCH --account=lm
#SBATCH --time=1-00:00:00
#SBATCH --gres=gpu:8
#SBATCH --requeue
#SBATCH --export=ALL
#SBATCH --constraint=h200

set -u
module load cuda
host="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export HEADWATER_ENDPOINT="$host:$((20000 + SLURM_JOB_ID % 20000))"
export HEADWATER_RENDEZVOUS="try-1.${SLURM_RESTART_COUNT:-0}"
again=0
# USR1: the time limit is near. The ranks save and leave, and the job goes back into the queue.
trap 'again=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
srun --kill-on-bad-exit=1 --wait=120 bash -c 'exec /opt/hw/bin/python -P -m infra.launch.node --work-dir /share/work/pretrain/1a2b3c4d5e6f --attempt try-1 --module training.pretrain --nodes 2 --ranks 8 --threads 3 --grace 120 --env '"'"'NCCL_DEBUG=WARN x'"'"' --together --node "$SLURM_NODEID" --endpoint "$HEADWATER_ENDPOINT" --rendezvous "$HEADWATER_RENDEZVOUS"' &
step=$!
while :; do
  wait "$step"; code=$?
  kill -0 "$step" 2>/dev/null || break  # otherwise only the wait was interrupted, by USR1
done
if [ "$again" = 1 ] && [ ! -e /share/work/pretrain/1a2b3c4d5e6f/result.json ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""  # noqa: E501


def test_the_script_is_what_an_operator_would_write() -> None:
    job = JobSpec("training.pretrain", ranks=8, nodes=2, threads_per_rank=3, env={"NCCL_DEBUG": "WARN x"})
    settings = SlurmSettings(
        partition="gpu",
        account="lm",
        time="1-00:00:00",
        gres="gpu:8",
        extra=("--constraint=h200",),
        setup=("module load cuda",),
    )
    text = render(job, settings, Path("/share/work/pretrain/1a2b3c4d5e6f"), "try-1", "/opt/hw/bin/python")
    assert text == SCRIPT
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_folders_with_spaces_and_quotes_stay_one_word(tmp_path: Path) -> None:
    work = tmp_path / "a folder; touch 'x'" / "work"
    text = render(spec(), SlurmSettings(), work, "try-1")
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert not any(line.startswith("touch") for line in text.splitlines())


def test_without_slurm_the_user_reads_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no squeue on this machine\. Start the run on a login node"):
        SlurmLauncher().submit(spec(), request_for(tmp_path, {}))


# ---- two nodes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not available():
        pytest.skip("SLURM's daemons are not installed here, or we are not root")
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as conf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        yield


def run(work: Path, on_event: Callable[[Mapping[str, Any]], None] = print, **settings: Any) -> Any:
    return run_job(spec(**settings), SlurmLauncher(SETTINGS), work, on_event)


def scripts(work: Path) -> int:
    return len(list((work / "logs").glob("*.sbatch")))


@pytest.mark.slow
def test_a_job_comes_to_its_result_through_a_killed_rank(tmp_path: Path, cluster: None) -> None:
    events: list[Mapping[str, Any]] = []
    work = request_for(tmp_path, {"3": "kill once"})
    assert run(work, events.append).stats == {"steps": 10}
    assert steps(events) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    (warning,) = [e["message"] for e in events if "ended at" in str(e.get("message"))]
    assert "ended at step 3 (rank 0 was killed by signal 9)" in warning
    assert scripts(work) == 2
    assert not (work / "job.json").exists()


@pytest.mark.slow
def test_refusals_and_cancellations_reach_the_user(tmp_path: Path, cluster: None) -> None:
    with pytest.raises(ConfigError, match=r"the batch is larger than the data\. Lower batch\."):
        run(request_for(tmp_path / "refused", {"refuse": True}))
    with pytest.raises(ConfigError, match=r"sbatch failed: .*nowhere"):
        run_job(
            spec(),
            SlurmLauncher(SETTINGS.model_copy(update={"partition": "nowhere"})),
            request_for(tmp_path / "partition", {}),
            print,
        )
    work = request_for(tmp_path / "cancelled", {"3": "stall once"})

    def cancel(event: Mapping[str, Any]) -> None:
        if event.get("done") == 3:
            subprocess.run(["scancel", read_json(work / "job.json")["id"]], check=True)

    with pytest.raises(HeadwaterError, match=r"was cancelled"):
        run(work, cancel)
    assert scripts(work) == 1


@pytest.mark.slow
def test_a_stall_shows_stacks_and_an_interrupt_leaves_no_job(tmp_path: Path, cluster: None) -> None:
    events: list[Mapping[str, Any]] = []
    work = request_for(tmp_path / "stall", {"5": "stall once"})
    assert run(work, events.append, stall_limit_s=8).stats == {"steps": 10}
    assert any("no sign of life for 8 s" in str(event.get("message")) for event in events)
    logs = (work / "logs").glob("node-*/try-1*/attempt_0/0/stderr.log")
    assert any("fake_job.py" in log.read_text() for log in logs)

    work = request_for(tmp_path / "interrupt", {"1": "linger"})

    def interrupt(event: Mapping[str, Any]) -> None:
        if event.get("done") == 1:
            assert until(lambda: (work / "lingering").exists())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(work, interrupt)
    left = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout
    assert left == ""
    assert until(lambda: not any(_alive(int((work / f"child-{n}").read_text())) for n in range(2)))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


DRIVER = """
import sys
from pathlib import Path
from infra.job import load_request
from infra.launch.restart import run_job
from infra.launch.slurm import SlurmLauncher
from tests.infra.test_slurm import SETTINGS
from training.pretrain import PretrainConfig
work = Path(sys.argv[1])
spec = PretrainConfig.model_validate(load_request(work / "request.json").config).job_spec("training.pretrain")
result = run_job(spec, SlurmLauncher(SETTINGS), work, lambda event: print(event, flush=True))
"""


@pytest.mark.slow
def test_pretraining_is_preempted_and_its_driver_killed_and_the_model_is_the_same(
    tmp_path: Path, cluster: None
) -> None:
    """Two nodes with one rank each, against two ranks of one machine that nobody disturbs."""
    from tests.training.pretraining import PretrainJob, build_inputs, small_config

    inputs = build_inputs(tmp_path / "inputs")
    changes = {"nodes": 2, "ranks": 1, "steps": 300, "checkpoint_every": 100}
    here = PretrainJob(tmp_path / "here", inputs, small_config(**changes))
    here.run(ranks=2)
    there = PretrainJob(tmp_path / "there", inputs, small_config(**changes))
    work = there.request.work_dir
    there.request.dataset_root.mkdir(parents=True)
    work.mkdir(parents=True)
    write_request(there.request)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", DRIVER, str(work)], cwd=REPOSITORY, start_new_session=True)

    def reached(step: int) -> bool:
        return any(event["done"] >= step for event in there.events("progress"))

    driver = start()
    try:
        assert until(lambda: reached(20), 120)
        number = read_json(work / "job.json")["id"]
        subprocess.run(["scontrol", "requeue", number], check=True)
        assert until(lambda: "PENDING" in _job(number), 60)
        assert left_in_order(work)
        subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)  # not in two minutes
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver = start()
        assert driver.wait(200) == 0
    finally:
        driver.kill()
        driver.wait()
    assert scripts(work) == 1
    assert there.digest() == here.digest()
    assert "Restarts=1" in _job(number)


def _job(number: str) -> str:
    return subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True).stdout


def left_in_order(work: Path) -> bool:
    """The ranks left a checkpoint of the step at which they were told to go, which no schedule asked for."""
    return any(int(path.name.rpartition("-")[2]) % 100 for path in (work / "checkpoints").glob("step-*"))
