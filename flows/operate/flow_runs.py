"""A flow run of ours: how it is called, and which form it was given."""

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.params import Form, completed

P = ParamSpec("P")
R = TypeVar("R")


def as_deployed(form: Form) -> Form:
    """The form of this flow run: what it was not given is its deployment's. A part of a run is given all of it."""
    if set(type(form).model_fields) <= form.model_fields_set:
        return form
    return completed(form, _deployed_form())


def _deployed_form() -> Mapping[str, Any]:
    """What the deployment of this flow run fills in; nothing if it has none."""
    if flow_run.id is None:
        return {}
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_flow_run(UUID(str(flow_run.id))).deployment_id
            return dict(client.read_deployment(deployment).parameters.get("params") or {}) if deployment else {}
        except ObjectNotFound:  # deleted since
            return {}


def run_name() -> str:
    """``dedup-cc-2026-46-1a2b3c4d``: stage, crawl or else recipe, and the end of the flow run's id."""
    params = flow_run.parameters.get("params") or {}
    form = dict(params) if isinstance(params, Mapping) else params.model_dump(exclude_unset=True)
    if not {"recipe", "crawl"} <= form.keys():
        form = {**_deployed_form(), **form}
    return run_name_of(str(flow_run.flow_name), form, str(flow_run.id))


def run_name_of(flow_name: str, form: Mapping[str, Any], run: str) -> str:
    """An id begins with the time it was made: runs that a schedule makes together have the same beginnings."""
    stem = str(form.get("lab") or form.get("recipe") or "demo").rsplit("/", 1)[-1].removesuffix(".yaml")
    return f"{flow_name.replace('_', '-')}-{crawl_slug(form.get('crawl') or '') or stem}-{run[-8:]}"


def crawl_slug(crawl: str) -> str:
    """``CC-MAIN-2026-46`` as ``cc-2026-46``."""
    return crawl.lower().replace("cc-main-", "cc-")


def our_flow(name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """``prefect.flow`` as every flow of ours is declared: the store holds the results, and the log is written on purpose."""

    def declared(body: Callable[P, R]) -> Flow[P, R]:
        return flow(name=name, flow_run_name=run_name, persist_result=False, log_prints=False)(body)

    return declared
