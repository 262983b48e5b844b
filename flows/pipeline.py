"""The whole path as a Prefect flow: publish the plan, then run what it says, stage by stage.

A stage is a flow of its own, called in this process (``inline``) or run by its deployment on its own work pool
(``deployments``), where it can be cancelled and rerun alone (``flows.operate.children``).
"""

from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger

from flows.context import open_store
from flows.crawls.incremental import OnOutcome, planned, series_lock
from flows.execute import RunOne, RunResult, run_recipe
from flows.operate.artifacts import best_effort, publish_funnel, publish_lineage, publish_plan, publish_report
from flows.operate.children import run_child, set_aside_unfinished
from flows.operate.deployments import full_name, is_deployed
from flows.operate.endings import as_flow_state, run_line, stage_line, unwrap_at_terminal
from flows.operate.flow_runs import as_deployed, our_flow
from flows.params import PipelineParams, pipeline_params, stage_params
from flows.provenance.run_history import datasets_of_run
from flows.recipe import Recipe
from flows.stage_flows import flow_context, run_inline
from flows.stages import in_order
from infra.errors import HeadwaterError
from infra.planning import Action, StageSelection, plan, refuse_blocked
from infra.runner import StageOutcome, published_by
from infra.runs import RunRecord
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext


@our_flow(name="pipeline")
def pipeline(params: PipelineParams = PipelineParams()) -> RunResult:
    """From the crawl to a chat model, or any part of it.

    Args:
        params: Which recipe, which stages, and where.
    """

    def work() -> RunResult:
        form = as_deployed(params)
        return run_pipeline(form.load(), form)

    return as_flow_state("pipeline", work, run_line)


def run_as_flow(recipe: Recipe, selection: StageSelection, store: Store, crawl: str = "") -> RunResult:
    """Run a recipe as this flow against the configured server; errors are raised as they are without one.

    The recipe is at hand: the form only shows on the server what is run.
    """

    @our_flow(name="pipeline")
    def with_recipe(params: PipelineParams) -> RunResult:
        return as_flow_state("pipeline", lambda: run_pipeline(recipe, params), run_line)

    with_recipe.description = pipeline.description
    return unwrap_at_terminal(with_recipe(pipeline_params(recipe, selection, store.address, crawl)))


def run_pipeline(loaded: Recipe, params: PipelineParams) -> RunResult:
    """The body of both: the recipe, or what the form selects of it."""
    store = open_store(params.workspace)
    if params.dry_run:
        recipe = planned(loaded, params.crawl, store)
        plans = plan(recipe.nodes, store, params.selection, recipe.label)
        best_effort(lambda: publish_plan(plans))
        refuse_blocked(plans)
        return RunResult("", plans)
    with series_lock(loaded, params.crawl, store, get_run_logger().info) as (recipe, note):
        record = RunRecord.start(store, recipe.label)
        context = flow_context(recipe, store, record)
        run_one = _by_deployment(recipe, params) if params.dispatch == "deployments" else _inline(recipe, params)
        try:
            result = run_recipe(
                recipe,
                params.selection,
                context,
                run_one,
                on_plan=lambda plans: best_effort(lambda: publish_plan(plans)),
                on_outcome=lambda outcome: _note_and_tell(outcome, note),
            )
        finally:
            best_effort(lambda: _publish_ends(store, record.id))
    get_run_logger().info(run_line(result))
    return result


def _note_and_tell(outcome: StageOutcome, note: OnOutcome) -> None:
    """One line a stage in this run's own log: what the stage itself has to say is in the log of its own run."""
    if outcome.action != Action.SKIP:  # that is told already, with its reason
        get_run_logger().info(stage_line(outcome))
    note(outcome)


def _publish_ends(store: Store, run: str) -> None:
    """Funnel, lineage and report of what this run made or found made, also after a failure: they show how far it came."""
    datasets = datasets_of_run(store, run)
    ordered = in_order(datasets.values())
    publish_funnel(ordered)
    if ordered:
        publish_lineage(ordered[-1])
        publish_report(store, datasets, run)


def _form(recipe: Recipe, params: PipelineParams, node: StageNode, run: RunContext, force: bool) -> dict[str, Any]:
    """The form of one stage of this run, as plain data. Absolute paths, because a worker has its own folder."""
    return {
        "recipe": recipe.address,
        "overrides": list(recipe.overrides),
        "workspace": params.workspace,
        "crawl": recipe.crawl,
        "force": force,
        "run": run.record.id,
        "config": node.config.model_dump(mode="json"),
    }


def _inline(recipe: Recipe, params: PipelineParams) -> RunOne:
    def run_one(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
        set_aside_unfinished(node.name)
        return run_inline(node, inputs, run, force, stage_params(node.stage)(**_form(recipe, params, node, run, force)))

    return run_one


def _by_deployment(recipe: Recipe, params: PipelineParams) -> RunOne:
    here = _inline(recipe, params)

    def run_one(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
        if not is_deployed(node.name):  # named by its dotted path in this recipe alone
            return here(node, inputs, run, force)
        tags = [f"crawl:{recipe.crawl}"] if recipe.crawl else []
        run_child(full_name(node.name, recipe), _form(recipe, params, node, run, force), tags)
        return _outcome_of(node, inputs, run)

    return run_one


def _outcome_of(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext) -> StageOutcome:
    """What a stage did in another process: the dataset with the fingerprint it must have."""
    dataset = published_by(node, inputs, run)
    if dataset is None:
        raise HeadwaterError(
            f"stage {node.name!r} completed, but its dataset is not in this workspace",
            where=run.store.address,
            remedy="Give all workers the same workspace.",
        )
    action = Action.RUN if dataset.manifest.provenance.run == run.record.id else Action.SKIP
    return StageOutcome(node.name, action, "run by its deployment", dataset)
