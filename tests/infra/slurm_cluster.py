"""A SLURM cluster of two nodes on this machine, for tests: its own munge, controller and two node daemons.

Everything lives below one folder and ends with the context. Needs root and Debian's packages ``slurmctld slurmd
slurm-client munge``.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

CONF = """
ClusterName=headwater-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
KillWait=25
MinJobAge=300
JobRequeue=1
SchedulerParameters=requeue_setup_env_fail
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def available() -> bool:
    return os.geteuid() == 0 and all(shutil.which(program) for program in PROGRAMS)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[Path]:
    """Start it; yields the configuration, which SLURM's commands find by ``SLURM_CONF``."""
    controller, first, second = free_ports(3)
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(folder=folder, host=socket.gethostname(), controller=controller, first=first, second=second)
    )
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file")]
    daemons = [
        ["munged", "--foreground", "--force", *munge, f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", "n1"],
        ["slurmd", "-D", "-f", str(conf), "-N", "n2"],
    ]
    with contextlib.ExitStack() as stack:
        for command in daemons:
            with (folder / f"{command[0]}-{command[-1].rpartition('/')[2]}.out").open("wb") as log:
                daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            stack.callback(_end, daemon)
            time.sleep(0.5)
        deadline = time.monotonic() + 60
        while "idle" not in (states := _states(environment)) or states.count("idle") < 2:
            if time.monotonic() > deadline:
                raise RuntimeError(f"SLURM does not come up: {states}; see {folder}")
            time.sleep(0.5)
        yield conf


def _states(environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%N %T"], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
