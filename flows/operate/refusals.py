"""Which flow runs a worker of ours takes: those of our own deployments, as they stand.

Whoever may use the server's API can give a run *job variables*: a command, an environment, a folder, an image. To a
worker they are orders, carried out as the user it runs as. Here a run or deployment may set limits of its container and
nothing else, and a worker runs our flows only: ``deploy`` says so in the job template of the pools it makes, so that the
server refuses with a sentence, and the worker looks again, whatever the pool says.
"""

import copy
from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.workers.process import ProcessWorker

from flows.operate.deployments import is_deployed

FLOWS = frozenset(
    {
        "flows.pipeline.pipeline",
        "flows.crawls.watch.crawl_watch",
        "flows.ablate.flow.ablate",
        "flows.mix.flow.mix",
    }
)
"""Entry points beside those of the stages."""
STAGE_FLOW = "flows.stage_flows."
ALLOWED = {
    "process": frozenset({"stream_output"}),
    "docker": frozenset({"stream_output", "mem_limit", "memswap_limit", "cpus", "gpus"}),
}
"""Job variables by kind of pool."""
HARMLESS_STEPS = frozenset({"prefect.deployments.steps.set_working_directory"})
"""What ``prefect deploy`` writes into a deployment that names none."""


def refusal(run: FlowRun, deployment: DeploymentResponse | None, kind: str) -> str | None:
    """Why a worker does not take a run, as a sentence; None if it does."""
    if deployment is None:
        return "Refused: the run belongs to no deployment, and a worker runs headwater's deployments only."
    steps = {name for step in deployment.pull_steps or [] for name in step}
    if not _is_ours(deployment.entrypoint) or deployment.storage_document_id or steps - HARMLESS_STEPS:
        return "Refused: its deployment is none that headwater made. Create it again: headwater deploy."
    variables = {**(deployment.job_variables or {}), **(run.job_variables or {})}
    # A dotted name sets a part of another variable: env.PATH.
    unknown = sorted(
        {name.split(".")[0] for name, value in variables.items() if value} - ALLOWED.get(kind, frozenset())
    )
    if unknown:
        return (
            f"Refused: a run or deployment may not set {', '.join(unknown)}. What runs, and in which environment, is the "
            "worker's to say."
        )
    return None


def _is_ours(entrypoint: str | None) -> bool:
    """Stages of other packages are among them where their package is installed and offers them."""
    stage = (entrypoint or "").removeprefix(STAGE_FLOW)
    return entrypoint in FLOWS or (entrypoint != stage and is_deployed(stage))


def closed_template(kind: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """A pool's job template in which only the allowed variables are left; the others' defaults are fixed."""
    closed: dict[str, Any] = copy.deepcopy(dict(template))
    variables = closed["variables"]
    configuration = closed["job_configuration"]
    for name in [name for name in variables["properties"] if name not in ALLOWED[kind]]:
        default = variables["properties"].pop(name).get("default")
        for key, value in configuration.items():
            if value == "{{ " + name + " }}":
                configuration[key] = default
    variables["additionalProperties"] = False
    for foreign in ("definitions", "$defs", "description"):
        variables.pop(foreign, None)
    variables["required"] = [name for name in variables.get("required", []) if name in variables["properties"]]
    closed["job_configuration"] = {key: value for key, value in configuration.items() if value is not None}
    return closed


def process_template() -> dict[str, Any]:
    return closed_template("process", ProcessWorker.get_default_base_job_template())
