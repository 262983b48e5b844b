"""The whole path as a Prefect flow: publish the plan, then run what it says, stage by stage.

A stage is a flow of its own, called in this process (``inline``) or run by its deployment on its own work pool
(``deployments``), where it can be cancelled and rerun alone. A deployment's run does not raise when it fails; its state
is checked here.
"""

from collections.abc import Mapping
from typing import Any

from prefect import flow, get_run_logger
from prefect.deployments import run_deployment
from prefect.runtime import flow_run

from flows.execute import RunOne, RunResult, run_recipe
from flows.params import PipelineParams, pipeline_params, stage_params
from flows.recipe import Recipe
from flows.reporting import best_effort, publish_funnel, publish_lineage, publish_plan
from flows.runtime import open_store
from flows.stage_flows import ended, flow_context, run_name, settled, stage_flow
from infra.errors import HeadwaterError
from infra.planning import Action, Selection, StageNode, plan
from infra.runner import RunContext, StageOutcome
from infra.runs import RunRecord
from infra.store.dataset import Dataset
from infra.store.store import Store


@flow(name="pipeline", flow_run_name=run_name, persist_result=False, log_prints=False)
def pipeline(params: PipelineParams = PipelineParams()) -> RunResult:
    """From the crawl to a chat model, or any part of it.

    Args:
        params: Which recipe, which stages, and where.
    """
    return ended(lambda: run_pipeline(params))


def run_pipeline(params: PipelineParams) -> RunResult:
    recipe, store = params.load(), open_store(params.workspace)
    if params.dry_run:
        plans = plan(recipe.nodes, store, params.selection, recipe.name)
        best_effort(lambda: publish_plan(plans))
        return RunResult("", plans)
    record = RunRecord.start(store, recipe.name)
    context = flow_context(recipe, store, record)
    run_one = _by_deployment(recipe, params) if params.dispatch == "deployments" else _inline(recipe, params)
    try:
        result = run_recipe(
            recipe, params.selection, context, run_one, lambda plans: best_effort(lambda: publish_plan(plans))
        )
    finally:
        best_effort(lambda: _publish_ends(recipe, store))
    return result


def _publish_ends(recipe: Recipe, store: Store) -> None:
    """The funnel and the lineage of what is published, also after a failure: they show how far it came."""
    datasets = [found for node in recipe.nodes if (found := store.get_ref(node.name, recipe.name))]
    publish_funnel(datasets)
    if datasets:
        publish_lineage(datasets[-1])


def _form(recipe: Recipe, params: PipelineParams, node: StageNode, run: RunContext, force: bool) -> dict[str, Any]:
    """The form of one stage of this run, as plain data. Absolute paths, because a worker has its own folder."""
    return {
        "recipe": recipe.address,
        "overrides": list(recipe.overrides),
        "workspace": params.workspace,
        "force": force,
        "run": run.record.id,
        "config": node.config.model_dump(mode="json"),
    }


def _inline(recipe: Recipe, params: PipelineParams) -> RunOne:
    def run_one(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
        form = stage_params(node.name)(**_form(recipe, params, node, run, force))
        return settled(stage_flow(node.name)(params=form))

    return run_one


def _by_deployment(recipe: Recipe, params: PipelineParams) -> RunOne:
    def run_one(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
        name = f"{node.name}/{recipe.name}"
        child: Any = run_deployment(  # declared as maybe a coroutine; in a synchronous flow it is the flow run
            name,
            parameters={"params": _form(recipe, params, node, run, force)},
            # One child for each attempt of this parent: a retried parent finds its own child again, and a new attempt
            # never gets the failed child of the last one.
            idempotency_key=f"{flow_run.id}:{flow_run.run_count}:{node.name}",
        )
        get_run_logger().info("%s ended: %s", name, child.state)
        if child.state is None or not child.state.is_completed():
            state = child.state.name if child.state else "unknown"
            raise HeadwaterError(
                f"stage {node.name!r} did not complete ({state}): {child.state.message if child.state else ''}",
                where=f"flow run {child.name}",
                remedy="Mend the cause, then run again: finished work is kept.",
            )
        return _outcome_of(node, run)

    return run_one


def _outcome_of(node: StageNode, run: RunContext) -> StageOutcome:
    """What a stage did in another process: its dataset is what the run's label now points at."""
    dataset = run.store.get_ref(node.name, run.label)
    if dataset is None:
        raise HeadwaterError(
            f"stage {node.name!r} completed, but its dataset is not in this workspace",
            where=str(run.store.home),
            remedy="Give all workers the same workspace.",
        )
    return StageOutcome(node.name, Action.RUN, "run by its deployment", dataset)


def run_as_flow(recipe: Recipe, selection: Selection, store: Store) -> RunResult:
    """Run a recipe as this flow against the configured server; errors are raised as they are without one."""
    return settled(pipeline(pipeline_params(recipe, selection, str(store.home.resolve()))))
