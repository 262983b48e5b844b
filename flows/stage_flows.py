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
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from flows.execute import RunResult, resolve_inputs, run_recipe
from flows.heartbeats import leave_heartbeats_behind
from flows.incremental import planned
from flows.outlive import outlive_worker
from flows.params import StageParams, stage_params
from flows.recipe import Recipe
from flows.reporting import LogReporter, ProgressReporter, best_effort, publish_samples
from flows.runtime import open_store, run_context
from flows.stages import STAGE_NAMES, load_stage
from infra.errors import HeadwaterError
from infra.planning import Selection, StageNode, plan
from infra.progress import Reporters
from infra.runner import RunContext, StageOutcome, run_stage
from infra.runs import RunRecord
from infra.store.dataset import Dataset
from infra.store.store import Store

T = TypeVar("T")


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
        return ended(lambda: run_one_stage(name, params))

    body.__name__ = name
    body.__doc__ = load_stage(name).description or f"Stage {name}."
    body.__annotations__ = {"params": form, "return": StageOutcome}
    return flow(name=name, flow_run_name=run_name, persist_result=False, log_prints=False)(body)


def ended(work: Callable[[], T]) -> T:
    """Turn an error with a cause into a Failed state with that sentence: no traceback, which would hide it.

    Prefect takes a returned state as the run's own, and hands it to the caller as a value: see ``settled``.
    """
    outlive_worker()
    leave_heartbeats_behind()
    try:
        return work()
    except StageCancelled as error:
        return cast(T, Cancelled(message=str(error), data=error))
    except HeadwaterError as error:
        return cast(T, Failed(message=str(error), data=error))


class StageCancelled(HeadwaterError):
    """A stage that runs elsewhere was cancelled there: its parent ends as cancelled too, and not as failed."""


def settled(value: T) -> T:
    """What a task or flow returned; if that is a failure, the error behind it is raised."""
    if isinstance(value, State):
        error = getattr(value.data, "result", value.data)
        raise error if isinstance(error, HeadwaterError) else HeadwaterError(value.message or str(value))
    return value


def run_name() -> str:
    """``dedup-cc-2026-46-1a2b3c4d``: stage, crawl or else recipe, and the beginning of the flow run's id."""
    params = flow_run.parameters.get("params") or {}
    form = params if isinstance(params, Mapping) else params.model_dump()
    return run_name_of(str(flow_run.flow_name), form, str(flow_run.id))


def run_name_of(flow_name: str, form: Mapping[str, Any], run: str) -> str:
    stem = str(form.get("recipe") or "demo").rsplit("/", 1)[-1].removesuffix(".yaml")
    return f"{flow_name.replace('_', '-')}-{crawl_slug(form.get('crawl') or '') or stem}-{run[:8]}"


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
    return outcome


def _as_part(recipe: Recipe, name: str, selection: Selection, run: RunContext) -> StageOutcome:
    plans = plan(recipe.nodes, run.store, selection, run.label)
    published = {entry.stage: entry.dataset for entry in plans if entry.dataset is not None and not entry.selected}
    node = recipe.node(name)
    return run_as_task(node, resolve_inputs(node, published), run, name in selection.force)


def run_as_task(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
    """``run_stage`` as the flow run's one task. Called directly: it stays in the main thread."""

    @task(name=f"run {node.name}", cache_policy=NO_CACHE, persist_result=False)
    def work() -> StageOutcome:
        return ended(lambda: run_stage(node, inputs, run, force=force))

    return settled(work())


def flow_context(recipe: Recipe, store: Store, record: RunRecord) -> RunContext:
    """A run context that reports to the flow run's log and artifacts."""
    logger = get_run_logger()
    logging.getLogger("headwater").setLevel(logging.INFO)
    return run_context(recipe, store, record, Reporters([LogReporter(logger), ProgressReporter()]))
