"""How the runs of a work pool are carried out: as processes of its worker, or each in a container of its own.

    python -m flows.operate.pool_kind process|docker POOL...

Said once for a server, before ``headwater deploy``, which creates missing pools of kind ``process`` and leaves others as
they are. Deployments name a pool and not a kind: nothing else changes.
"""

import os
import sys
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import WorkPool
from prefect.context import refresh_global_settings_context
from prefect.exceptions import ObjectNotFound

from flows.operate.credentials import auth_string, use_auth
from flows.operate.deployments import POOL_LIMITS, POOLS
from flows.operate.refusals import process_template
from infra.errors import HeadwaterError

KINDS = ("process", "docker")
PAGE = 200


def template_of(kind: str, pool: str) -> dict[str, Any]:
    """The job template of a pool of this kind. Raises ConfigError where its settings are missing."""
    if kind == "process":
        return process_template()
    from flows.operate.containers import ContainerSettings, job_template  # an optional package

    return job_template(ContainerSettings.from_environment(os.environ, pool))


def ensure_kind(client: SyncPrefectClient, pool: str, kind: str, template: dict[str, Any]) -> None:
    """Make the pool one of this kind. A pool's kind cannot be changed: one of another kind that is idle is replaced, and
    its deployments, which lose their pool by that, get the new one."""
    try:
        present: WorkPool | None = client.read_work_pool(pool)
    except ObjectNotFound:
        present = None
    if present is not None and present.type == kind:
        client.update_work_pool(pool, WorkPoolUpdate(base_job_template=template))
        return
    bound: list[UUID] = []
    if present is not None:
        _refuse_busy(client, pool)
        bound = _deployments_of(client, pool)
        client.delete_work_pool(pool)
    client.create_work_pool(
        WorkPoolCreate(
            name=pool,
            type=kind,
            description=POOLS[pool],
            concurrency_limit=POOL_LIMITS[pool],
            base_job_template=template,
        )
    )
    for deployment in bound:
        client.update_deployment(deployment, DeploymentUpdate(work_pool_name=pool))


def _deployments_of(client: SyncPrefectClient, pool: str) -> list[UUID]:
    found: list[UUID] = []
    while True:
        page = client.read_deployments(work_pool_filter=_named(pool), limit=PAGE, offset=len(found))
        found += [deployment.id for deployment in page]
        if len(page) < PAGE:
            return found


def _named(pool: str) -> WorkPoolFilter:
    return WorkPoolFilter.model_validate({"name": {"any_": [pool]}})


def _refuse_busy(client: SyncPrefectClient, pool: str) -> None:
    unfinished = ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]
    busy = client.read_flow_runs(
        work_pool_filter=_named(pool),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": unfinished}}}),
        limit=1,
    )
    if busy:
        raise HeadwaterError(
            f"the work pool {pool!r} cannot change its kind while a flow run is in it",
            where=f"flow run {busy[0].name}",
            remedy="Wait for its end, or cancel it in the UI; then start again.",
        )


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or arguments[0] not in KINDS or not set(arguments[1:]) <= set(POOLS):
        raise SystemExit(
            f"usage: python -m flows.operate.pool_kind {'|'.join(KINDS)} POOL...   pools: {', '.join(POOLS)}"
        )
    kind, *pools = arguments
    use_auth(auth_string())
    refresh_global_settings_context()  # Prefect has read its settings when it was imported
    with get_client(sync_client=True) as client:
        for pool in pools:
            ensure_kind(client, pool, kind, template_of(kind, pool))
            sys.stdout.write(f"work pool {pool}: {kind}\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HeadwaterError as error:
        sys.exit(str(error))
