"""Each stage as a Prefect flow.

``flows.stage_flows.dedup`` is the flow of stage ``dedup``, made when it is first asked for: importing this module
imports no stage, so a worker that runs ``dedup`` never pays for torch. A stage is run as a deployment of its own, or by
the flow of the whole path inline:

    deployed   form -> recipe -> plan (which inputs?) -> infra.runner.run_stage -> artifacts
    inline     node and inputs of the run it is a part of -> infra.runner.run_stage -> artifacts

The stage runs inside one task that is called directly and not submitted: the process group of a training stage must be
owned by the main thread, where Prefect's cancellation arrives. Nothing is cached by Prefect; the store decides what is
already done.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from prefect import Flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.context import open_store, run_context, run_reporter
from flows.crawls.incremental import planned
from flows.execute import RunResult, resolve_inputs, run_recipe
from flows.operate.artifacts import LogReporter, ProgressReporter, best_effort, publish_report, publish_samples
from flows.operate.endings import as_flow_state, as_task_state, stage_line, unwrap_state
from flows.operate.flow_runs import as_deployed, our_flow
from flows.params import StageParams, stage_params
from flows.recipe import Recipe
from flows.stages import STAGE_NAMES, load_stage, offered_stages
from infra.planning import Action, StageSelection, plan
from infra.progress import Reporter, Reporters
from infra.runner import StageOutcome, run_stage
from infra.runs import RunRecord
from infra.stage import Stage, StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext


def __getattr__(name: str) -> Flow[..., StageOutcome]:
    """``flows.stage_flows.<stage>``: the entry point that deployments name."""
    if name in STAGE_NAMES or name in offered_stages():
        return stage_flow(name)
    raise AttributeError(f"there is no stage {name!r}")


@cache
def stage_flow(name: str) -> Flow[..., StageOutcome]:
    """The flow of one stage as it is deployed: what to run is read from its form."""
    return _flow(load_stage(name), lambda params: run_one_stage(name, as_deployed(params)))


def run_inline(
    node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool, form: StageParams
) -> StageOutcome:
    """The stage as a flow within another one, in this process: recipe and inputs are known here, so the form only shows them."""

    def work(params: StageParams) -> StageOutcome:
        outcome = run_as_task(node, inputs, replace(run, reporter=run_reporter(flow_reporter(), run.record)), force)
        return _shown(outcome, run.store, run.record.id)

    return unwrap_state(_flow(node.stage, work)(params=form))


def _flow(stage: Stage, work: Callable[[StageParams], StageOutcome]) -> Flow[..., StageOutcome]:
    """A flow with the stage's typed form."""
    name, form = stage.name, stage_params(stage)

    def body(params: StageParams = form()) -> StageOutcome:
        return as_flow_state(name, lambda: work(params), stage_line)

    body.__name__ = name
    about = stage.description or f"Stage {name}."
    body.__doc__ = (
        f"{about}\n\nArgs:\n    params: Which recipe and where, and what to change of the stage's configuration."
    )
    body.__annotations__ = {"params": form, "return": StageOutcome}
    return our_flow(name=name)(body)


def run_one_stage(name: str, params: StageParams) -> StageOutcome:
    """The body of a deployed stage's flow: a run of its own, or a part of the run its form names."""
    store = open_store(params.workspace)
    recipe = planned(params.load_with_config(name), params.crawl, store)
    selection = StageSelection(only=(name,), force=(name,) if params.force else ())
    if params.run:
        record = RunRecord(params.run, store.run_url(params.run))
        outcome = _as_part(recipe, name, selection, flow_context(recipe, store, record))
    else:
        record = RunRecord.start(store, recipe.label)
        result: RunResult = run_recipe(recipe, selection, flow_context(recipe, store, record), run_as_task)
        outcome = result.outcomes[0]
    return _shown(outcome, store, record.id)


def _shown(outcome: StageOutcome, store: Store, run: str) -> StageOutcome:
    """The outcome, once the server's pages show it."""
    best_effort(lambda: publish_samples(store, outcome.dataset))
    if outcome.stage == "report":
        best_effort(lambda: publish_report(store, {outcome.stage: outcome.dataset}, run))
    if outcome.action == Action.SKIP:  # what a stage that was built came to has been told as it was published
        get_run_logger().info(stage_line(outcome))
    return outcome


def _as_part(recipe: Recipe, name: str, selection: StageSelection, run: RunContext) -> StageOutcome:
    plans = plan(recipe.nodes, run.store, selection, run.label)
    published = {entry.stage: entry.dataset for entry in plans if entry.dataset is not None and not entry.selected}
    node = recipe.node(name)
    return run_as_task(node, resolve_inputs(node, published), run, name in selection.force)


def run_as_task(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
    """``run_stage`` as the flow run's one task. Called directly: it stays in the main thread."""

    signals: list[BaseException] = []

    @task(name=f"run {node.name}", cache_policy=NO_CACHE, persist_result=False)
    def work() -> StageOutcome:
        return as_task_state(node.name, lambda: run_stage(node, inputs, run, force=force), signals)

    outcome = work()
    if signals:
        raise signals[0]
    return unwrap_state(outcome)


def flow_context(recipe: Recipe, store: Store, record: RunRecord) -> RunContext:
    """A run context that reports to the flow run's log and artifacts."""
    return run_context(recipe, store, record, flow_reporter())


def flow_reporter() -> Reporter:
    """What this flow run's log and artifacts show of a stage."""
    logging.getLogger("headwater").setLevel(logging.INFO)
    return Reporters([LogReporter(get_run_logger()), ProgressReporter()])
