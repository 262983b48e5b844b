"""Work pools, limits and deployments on a Prefect server, created or brought up to date through its API."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object

from flows.operate.deployments import (
    CONTROL_POOL,
    CRAWL_QUEUE,
    POOL_LIMITS,
    POOLS,
    WATCH_TIMEZONE,
    DeploymentSpec,
    deployments,
    takes_commands,
)
from flows.operate.refusals import process_template
from flows.recipe import Recipe
from infra.extensions import named_code

PAGE = 200


def deploy(recipes: Sequence[Recipe], *, watch: bool) -> list[str]:
    """Create the pools, limits and all deployments on the configured server; returns the deployments' full names.

    What an operator has set since stays: a pool's kind and limit, the limits, the schedules. ``watch`` says whether the
    crawl watch's schedule begins switched on.
    """
    with get_client(sync_client=True) as client:
        for name, description in POOLS.items():
            _ensure_pool(client, name, description)
        _ensure_queue(client)
        kept = _schedules(client)
        specs = [spec for recipe in recipes for spec in deployments(recipe)]
        flows = {flow: client.create_flow_from_name(flow) for flow in {spec.flow: None for spec in specs}}
        forms = {
            entrypoint: parameter_schema(import_object(entrypoint)).model_dump_for_openapi()
            for entrypoint in {spec.entrypoint: None for spec in specs}
        }
        for spec in specs:
            schedules = kept.get(f"{spec.flow}/{spec.name}")
            if schedules is None:
                schedules = _first_schedules(spec, watch)
            client.create_deployment(
                flow_id=flows[spec.flow],
                name=spec.name,
                entrypoint=spec.entrypoint,
                work_pool_name=spec.pool,
                description=spec.description,
                parameters=spec.parameters,
                parameter_openapi_schema=own_defaults(forms[spec.entrypoint], spec.parameters["params"]),
                enforce_parameter_schema=True,
                tags=list(spec.tags),
                schedules=schedules,
            )
        return [f"{spec.flow}/{spec.name}" for spec in specs]


def own_defaults(form: dict[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
    """The form's schema with the deployment's own recipe as what stands in it, not that of any other deployment."""
    schema: dict[str, Any] = copy.deepcopy(form)
    fields = schema["properties"]["params"]
    fields["default"] = {**(fields.get("default") or {}), **filled}
    for model in schema["definitions"].values():
        if "recipe" in model.get("properties", {}):
            model["properties"]["recipe"]["default"] = filled["recipe"]
        for key, value in named_code(filled):
            # The server would refuse the recipe's own words: a form's choices know nothing of this recipe's packages.
            field = model.get("properties", {}).get(key, {})
            choices = field.get("items", field).get("enum")
            if choices is not None and value not in choices:
                choices.append(value)
                model["additionalProperties"] = True  # its package knows options of its own
    return schema


def _ensure_pool(client: SyncPrefectClient, name: str, description: str) -> None:
    pool = WorkPoolCreate(
        name=name,
        type="process",
        description=description,
        concurrency_limit=POOL_LIMITS[name],
        base_job_template=process_template(),
    )
    try:
        client.create_work_pool(pool)
    except ObjectAlreadyExists:
        present = client.read_work_pool(name)
        if present.type == "process" and takes_commands(present.base_job_template):
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=process_template()))


def _ensure_queue(client: SyncPrefectClient) -> None:
    known = {queue.name for queue in client.read_work_queues(work_pool_name=CONTROL_POOL)}
    if CRAWL_QUEUE not in known:
        client.create_work_queue(
            CRAWL_QUEUE,
            description="Runs of new crawls: one is started at a time, the oldest crawl first.",
            concurrency_limit=1,
            work_pool_name=CONTROL_POOL,
        )


def _first_schedules(spec: DeploymentSpec, watch: bool) -> list[DeploymentScheduleCreate]:
    if not spec.cron:
        return []
    cron = CronSchedule(cron=spec.cron, timezone=WATCH_TIMEZONE)
    return [DeploymentScheduleCreate(schedule=cron, active=watch)]


def _schedules(client: SyncPrefectClient) -> dict[str, list[DeploymentScheduleCreate]]:
    """The schedules of every deployment there is, by full name: creating a deployment again would remove them."""
    flows: dict[UUID, str] = {}
    found: dict[str, list[DeploymentScheduleCreate]] = {}
    for offset in itertools.count(0, PAGE):
        page = client.read_deployments(limit=PAGE, offset=offset)
        for deployment in page:
            if deployment.flow_id not in flows:
                flows[deployment.flow_id] = client.read_flow(deployment.flow_id).name
            found[f"{flows[deployment.flow_id]}/{deployment.name}"] = [
                DeploymentScheduleCreate(
                    schedule=entry.schedule,
                    active=entry.active,
                    max_scheduled_runs=entry.max_scheduled_runs,
                    parameters=entry.parameters,
                    slug=entry.slug,
                )
                for entry in deployment.schedules
            ]
        if len(page) < PAGE:
            return found
    raise AssertionError("count does not end")
