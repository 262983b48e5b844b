"""Work pools and deployments on a Prefect server, created or brought up to date through its API."""

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from prefect.workers.process import ProcessWorker

from flows.deployments import POOL_LIMITS, POOLS, DeploymentSpec, deployments
from flows.recipe import Recipe


def deploy(recipe: Recipe) -> list[str]:
    """Create the pools and the recipe's deployments on the configured server; returns their full names."""
    with get_client(sync_client=True) as client:
        for name, description in POOLS.items():
            _ensure_pool(client, name, description)
        return [_deploy_one(client, spec) for spec in deployments(recipe)]


def _ensure_pool(client: SyncPrefectClient, name: str, description: str) -> None:
    pool = WorkPoolCreate(
        name=name,
        type="process",
        description=description,
        concurrency_limit=POOL_LIMITS[name],
        base_job_template=ProcessWorker.get_default_base_job_template(),
    )
    client.create_work_pool(pool, overwrite=True)


def _deploy_one(client: SyncPrefectClient, spec: DeploymentSpec) -> str:
    flow = import_object(spec.entrypoint)
    client.create_deployment(
        flow_id=client.create_flow_from_name(spec.flow),
        name=spec.name,
        entrypoint=spec.entrypoint,
        work_pool_name=spec.pool,
        description=spec.description,
        parameters=spec.parameters,
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        tags=list(spec.tags),
    )
    return f"{spec.flow}/{spec.name}"
