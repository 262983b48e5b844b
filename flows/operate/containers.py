"""Work pools of kind ``docker``: each flow run of the pool is a container that ends with it.

``flows.operate.pool_kind`` makes a pool one of these. The worker is Prefect's own for Docker, with three differences: the exit
code is the one the engine holds after the end (Prefect may read it a moment too early and take a killed container for a
finished one), an ended container is removed together with its unnamed volumes, and processors and GPUs can be asked for
by number. Everything else a container gets stands in the pool's job template, where it can be read: image, network, workspace.
A run or deployment may change its limits alone (``flows.operate.refusals``).

A worker hands its own Prefect settings down to the containers it starts. Two of them must not arrive: its
``PREFECT_HOME``, which is a folder of its own, and the server's credentials, which ``docker inspect`` would show; a
container reads those from a mounted file, as every container of the image does.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect.utilities.asyncutils import run_sync_in_worker_thread

from flows.operate.refusals import closed_template
from infra.errors import ConfigError

try:
    from docker.errors import NotFound
    from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration, DockerWorkerResult
except ImportError as missing:
    raise ConfigError(
        f"work pools of kind docker need a package that is not installed ({missing.name})",
        remedy="pip install 'headwater[docker]'",
    ) from missing

KIND = "docker"
POOL_LABEL = "io.prefect.work-pool-name"
SECRET_FILE = "/run/secrets/api_auth"
NOT_HANDED_DOWN = (
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_PASSWORD",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # Prefect warns of every second worker of one kind

    class StageContainers(DockerWorker):
        """Starts a container for each flow run, waits for it, and removes it."""

        type = KIND

        async def setup(self) -> None:
            await super().setup()
            await run_sync_in_worker_thread(self._remove_left_behind)

        async def run(
            self, flow_run: Any, configuration: DockerWorkerJobConfiguration, task_status: Any = None
        ) -> DockerWorkerResult:
            result = await super().run(flow_run, configuration, task_status)
            return await run_sync_in_worker_thread(self._remove_ended, result)

        def _remove_ended(self, result: DockerWorkerResult) -> DockerWorkerResult:
            client = self._get_client()
            try:
                container = client.containers.get(result.identifier.rsplit(":", 1)[-1])
                code = int(container.wait()["StatusCode"])
                container.remove(v=True)
                return DockerWorkerResult(status_code=code, identifier=result.identifier)
            except NotFound:  # somebody else removed it
                return result
            finally:
                client.close()

        def _remove_left_behind(self) -> None:
            """Containers of this pool that ended while no worker watched."""
            client = self._get_client()
            try:
                label = f"{POOL_LABEL}={self._work_pool_name}"
                for state in ("exited", "dead"):
                    for container in client.containers.list(all=True, filters={"label": label, "status": state}):
                        container.remove(v=True)
            finally:
                client.close()

        def _build_container_settings(
            self, docker_client: Any, configuration: DockerWorkerJobConfiguration
        ) -> dict[str, Any]:
            return engine_units(super()._build_container_settings(docker_client, configuration))


def engine_units(settings: dict[str, Any]) -> dict[str, Any]:
    """``cpus`` and ``gpus`` as the engine wants them."""
    settings = dict(settings)
    cpus, gpus = settings.pop("cpus", None), settings.pop("gpus", None)
    if cpus:
        settings["nano_cpus"] = int(float(cpus) * 1_000_000_000)
    if gpus:
        count = -1 if gpus == "all" else int(gpus)
        settings["device_requests"] = [{"Driver": "nvidia", "Count": count, "Capabilities": [["gpu"]]}]
    return settings


@dataclass(frozen=True)
class ContainerSettings:
    """What the containers of a pool get; the compose file sets the variables."""

    image: str
    api_url: str
    network: str = ""
    workspace: str = ""
    """A volume's name, or a folder of the machine the engine runs on. A folder keeps its path in the container: what a form
    says about it holds inside and outside."""
    secret: str = ""
    """The file with the server's credentials, as a path on the machine the engine runs on."""
    user: str = ""
    memory: str = ""
    cpus: str = ""
    gpus: str = ""

    @property
    def home(self) -> str:
        """Where a container finds the workspace."""
        return self.workspace if self.workspace.startswith("/") else "/workspace"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pool: str) -> "ContainerSettings":
        """``HEADWATER_STAGE_MEMORY`` says it for all pools, ``HEADWATER_STAGE_MEMORY_GPU`` for the pool ``gpu`` alone."""

        def setting(name: str) -> str:
            general = f"HEADWATER_STAGE_{name}"
            return environment.get(f"{general}_{pool.upper()}") or environment.get(general, "")

        if not setting("IMAGE") or not environment.get("PREFECT_API_URL"):
            raise ConfigError(
                "the containers of stages need an image and the server's address",
                remedy="Set HEADWATER_STAGE_IMAGE and PREFECT_API_URL.",
            )
        names = ("image", "network", "workspace", "secret", "user", "memory", "cpus", "gpus")
        return cls(api_url=environment["PREFECT_API_URL"], **{name: setting(name.upper()) for name in names})


def job_template(settings: ContainerSettings) -> dict[str, Any]:
    """The pool's job template: Prefect's, with our defaults and the variables ``cpus`` and ``gpus``."""
    template: dict[str, Any] = copy.deepcopy(DockerWorker.get_default_base_job_template())
    variables = template["variables"]["properties"]
    env: dict[str, str | None] = {
        "PREFECT_API_URL": settings.api_url,
        "PREFECT_HOME": "/tmp/prefect",
        "HEADWATER_HOME": settings.home,
        "HEADWATER_CACHE": f"{settings.home}/cache",
        **dict.fromkeys(NOT_HANDED_DOWN),
    }
    volumes = []
    if settings.workspace:
        volumes.append(f"{settings.workspace}:{settings.home}")
    if settings.secret:
        volumes.append(f"{settings.secret}:{SECRET_FILE}:ro")
        env["HEADWATER_API_AUTH_FILE"] = SECRET_FILE
    defaults: dict[str, Any] = {
        "image": settings.image,
        "image_pull_policy": "Never",
        "networks": [settings.network] if settings.network else [],
        "volumes": volumes,
        "env": env,
        "mem_limit": settings.memory or None,
        # Equal limits mean no swap: a stage that needs more fails at once, and does not crawl.
        "memswap_limit": settings.memory or None,
    }
    for name, value in defaults.items():
        variables[name]["default"] = value
    variables["cpus"] = {
        "type": "string",
        "title": "Processors",
        "description": "How many the container may use, such as 2 or 1.5. Empty: all.",
        "default": settings.cpus,
    }
    variables["gpus"] = {
        "type": "string",
        "title": "GPUs",
        "description": "How many the container gets: all, or a number. Empty: none.",
        "default": settings.gpus,
    }
    del variables["container_create_kwargs"]
    template["job_configuration"]["container_create_kwargs"] = {
        "cpus": "{{ cpus }}",
        "gpus": "{{ gpus }}",
        "user": settings.user or None,
        "init": True,
        "shm_size": "1g",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
    }
    return closed_template(KIND, template)
