"""Each stage as a Prefect flow.

``flows.stage_flows.dedup`` is the flow of stage ``dedup``, made when it is first asked for: importing this module
imports no stage, so a worker that runs ``dedup`` never pays for torch. A flow can be called by the flow of the whole
path, inline, or run as a deployment of its own; both ways it does the same:

    form -> recipe -> plan (which inputs?) -> infra.runner.run_stage -> artifacts

The stage runs inside one task that is called directly and not submitted: the process group of a training stage must be
owned by the main thread, where Prefect's cancellation arrives. Nothing is cached by Prefect; the store decides what is
already done.
"""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any
from uuid import UUID

from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from flows.crawls.incremental import planned
from flows.execute import RunResult, resolve_inputs, run_recipe
from flows.operate.artifacts import LogReporter, ProgressReporter, best_effort, publish_report, publish_samples
from flows.operate.endings import as_state, ended, settled, stage_line
from flows.params import Form, StageParams, completed, stage_params
from flows.recipe import Recipe
from flows.runtime import open_store, run_context
from flows.stages import STAGE_NAMES, load_stage
from infra.planning import Action, Selection, StageNode, plan
from infra.progress import Reporters
from infra.runner import RunContext, StageOutcome, run_stage
from infra.runs import RunRecord
from infra.store.dataset import Dataset
from infra.store.store import Store


def __getattr__(name: str) -> Flow[..., StageOutcome]:
    """``flows.stage_flows.<stage>``: the entry point that deployments name."""
    if name in STAGE_NAMES:
        return stage_flow(name)
    raise AttributeError(f"there is no stage {name!r}")


@cache
def stage_flow(name: str) -> Flow[..., StageOutcome]:
    """The flow of one stage, with its typed form."""
    form = stage_params(name)

    def body(params: StageParams = form()) -> StageOutcome:
        return ended(name, lambda: run_one_stage(name, as_deployed(params)), stage_line)

    body.__name__ = name
    about = load_stage(name).description or f"Stage {name}."
    body.__doc__ = (
        f"{about}\n\nArgs:\n    params: Which recipe and where, and what to change of the stage's configuration."
    )
    body.__annotations__ = {"params": form, "return": StageOutcome}
    return flow(name=name, flow_run_name=run_name, persist_result=False, log_prints=False)(body)


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
    stem = str(form.get("recipe") or "demo").rsplit("/", 1)[-1].removesuffix(".yaml")
    return f"{flow_name.replace('_', '-')}-{crawl_slug(form.get('crawl') or '') or stem}-{run[-8:]}"


def crawl_slug(crawl: str) -> str:
    """``CC-MAIN-2026-46`` as ``cc-2026-46``."""
    return crawl.lower().replace("cc-main-", "cc-")


def run_one_stage(name: str, params: StageParams) -> StageOutcome:
    """The body of every stage's flow: a run of its own, or a part of the run its form names."""
    store = open_store(params.workspace)
    recipe = planned(params.load_with_config(name), params.crawl, store)
    selection = Selection(only=(name,), force=(name,) if params.force else ())
    if params.run:
        record = RunRecord(params.run, store.run_url(params.run))
        outcome = _as_part(recipe, name, selection, flow_context(recipe, store, record))
    else:
        record = RunRecord.start(store, recipe.label)
        result: RunResult = run_recipe(recipe, selection, flow_context(recipe, store, record), run_as_task)
        outcome = result.outcomes[0]
    best_effort(lambda: publish_samples(store, outcome.dataset))
    if name == "report":
        best_effort(lambda: publish_report(store, {name: outcome.dataset}, record.id))
    if outcome.action == Action.SKIP:  # what a stage that was built came to has been told as it was published
        get_run_logger().info(stage_line(outcome))
    return outcome


def _as_part(recipe: Recipe, name: str, selection: Selection, run: RunContext) -> StageOutcome:
    plans = plan(recipe.nodes, run.store, selection, run.label)
    published = {entry.stage: entry.dataset for entry in plans if entry.dataset is not None and not entry.selected}
    node = recipe.node(name)
    return run_as_task(node, resolve_inputs(node, published), run, name in selection.force)


def run_as_task(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
    """``run_stage`` as the flow run's one task. Called directly: it stays in the main thread."""

    signals: list[BaseException] = []

    @task(name=f"run {node.name}", cache_policy=NO_CACHE, persist_result=False)
    def work() -> StageOutcome:
        return as_state(node.name, lambda: run_stage(node, inputs, run, force=force), signals)

    outcome = work()
    if signals:
        raise signals[0]
    return settled(outcome)


def flow_context(recipe: Recipe, store: Store, record: RunRecord) -> RunContext:
    """A run context that reports to the flow run's log and artifacts."""
    logger = get_run_logger()
    logging.getLogger("headwater").setLevel(logging.INFO)
    return run_context(recipe, store, record, Reporters([LogReporter(logger), ProgressReporter()]))
