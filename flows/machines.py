"""Which machines a run uses: an executor for stages made of units, a launcher for process groups.

Both are chosen in a recipe's ``execution`` section and never change a result, so a run can be broken off on one kind of
machine and continued on another.
"""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from infra.config import Config
from infra.errors import ConfigError
from infra.execution.base import Executor
from infra.execution.local import LocalExecutor
from infra.execution.ray import RayExecutor
from infra.execution.ray_settings import RaySettings
from infra.gpus import Device
from infra.launch.hosts import HostsLauncher, HostsSettings
from infra.launch.kubernetes import KubernetesLauncher
from infra.launch.local import LocalLauncher
from infra.launch.manifests import KubernetesSettings
from infra.launch.slurm import SlurmLauncher, SlurmSettings
from infra.launch.spec import Launcher


class ExecutionSettings(Config):
    """How a run is carried out. Nothing here changes a result."""

    workers: int = Field(2, ge=1, le=4096)
    """Worker processes for stages made of units."""
    memory_per_worker_mb: int = Field(4096, ge=256)
    """A worker above this resident size is ended; its unit is retried alone, then recorded as failed."""
    unit_timeout_s: int = Field(7200, ge=10)
    """Longest time one unit may take, in seconds."""
    max_failed_fraction: float = Field(0.0, ge=0.0, le=1.0)
    """Share of a step's units that may be missing. Above it the stage fails once the others are done; below, what there is
    is published as incomplete, names the missing files wherever it is used, and the next run tries them again."""
    on_drift: Literal["warn", "rerun", "fail"] = "warn"
    """What to do when a stage's source was edited since its dataset was built, with the same code version."""
    drop_rate_tolerance: float = Field(0.05, gt=0.0, le=1.0)
    """Warn when a rule drops a share of a source that moved by more than this since the snapshot before."""
    executor: Literal["local", "ray"] = "local"
    """Where units run: worker processes of this machine, or the nodes of a Ray cluster."""
    ray: RaySettings = RaySettings()
    """The Ray cluster, for executor ray."""
    launcher: Literal["local", "slurm", "kubernetes", "hosts"] = "local"
    """Where process groups (training, alignment) run."""
    device: Device = "auto"
    """What they compute on with launcher local. auto: a GPU for each rank where this machine has any; cpu: none of them."""
    slurm: SlurmSettings = SlurmSettings()
    """What SLURM is asked for, for launcher slurm."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """What pods get, for launcher kubernetes."""
    hosts: HostsSettings = HostsSettings()
    """The machines, for launcher hosts."""


def check_installed(settings: ExecutionSettings) -> None:
    """Raises ConfigError where what the settings choose needs a package that is not here."""
    for chosen, package in ((settings.executor, "ray"), (settings.launcher, "kubernetes")):
        if chosen == package and find_spec(package) is None:
            raise ConfigError(
                f"execution chooses {package}, which is not installed here",
                remedy=f"Install it with pip install 'headwater[{package}]', or choose another.",
            )


def executor_of(settings: ExecutionSettings) -> Executor:
    """Where the units of stages run."""
    memory = settings.memory_per_worker_mb << 20
    if settings.executor == "ray":
        return RayExecutor(settings.workers, memory, settings.unit_timeout_s, settings=settings.ray)
    return LocalExecutor(settings.workers, memory, settings.unit_timeout_s)


def launcher_of(settings: ExecutionSettings) -> Launcher:
    """Where process groups run."""
    if settings.launcher == "slurm":
        return SlurmLauncher(settings.slurm)
    if settings.launcher == "kubernetes":
        return KubernetesLauncher(settings.kubernetes)
    if settings.launcher == "hosts":
        return HostsLauncher(settings.hosts)
    return LocalLauncher(settings.device)
