"""Carrying out a recipe, stage by stage: what the command and the Prefect parent flow share."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from flows.cancellation import recorded_end
from flows.checks import notices
from flows.provenance.drop_rates import rate_changes
from flows.provenance.notices import emptied_sources
from flows.recipe import Recipe
from infra.errors import Blocked
from infra.labels import move_labels
from infra.planning import Action, StagePlan, StageSelection, plan, refuse_blocked
from infra.runner import StageOutcome, reuse_published, run_stage, tell_warnings
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.work import RunContext

RunOne = Callable[[StageNode, Mapping[str, Dataset], RunContext, bool], StageOutcome]


def run_directly(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
    return run_stage(node, inputs, run, force=force)


@dataclass
class RunResult:
    """What a run did, in stage order."""

    run: str
    plans: list[StagePlan]
    outcomes: list[StageOutcome] = field(default_factory=list)
    datasets: dict[str, Dataset] = field(default_factory=dict)


def run_recipe(
    recipe: Recipe,
    selection: StageSelection,
    run: RunContext,
    run_one: RunOne = run_directly,
    on_plan: Callable[[list[StagePlan]], None] | None = None,
    on_outcome: Callable[[StageOutcome], None] = lambda outcome: None,
) -> RunResult:
    """Plan, then run what is selected, each stage on the datasets of the stages before it. Labels move at the end, together.

    ``run_one`` says how a stage that has something to do is run: in this process, as a Prefect flow, or by its
    deployment.
    """
    plans = plan(recipe.nodes, run.store, selection, run.label)
    result = RunResult(run.record.id, plans)
    said = notices(recipe.nodes)
    run.record.save_plan(
        {
            "recipe": recipe.name,
            "address": recipe.address,
            "overrides": list(recipe.overrides),
            "crawl": recipe.crawl,
            "selection": asdict(selection),
            "stages": [entry.as_dict() for entry in plans],
            "notices": said,
        }
    )
    for sentence in said:
        run.reporter.message("recipe", sentence)
    if on_plan is not None:
        on_plan(plans)
    with recorded_end(run.record):
        refuse_blocked(plans)
        for node, entry in zip(recipe.nodes, plans, strict=True):
            if entry.selected and node.use and entry.dataset is not None:
                outcome = _use(entry, run)
                result.outcomes.append(outcome)
                result.datasets[node.name] = outcome.dataset
            elif entry.selected:
                inputs = resolve_inputs(node, result.datasets)
                force = node.name in selection.force
                skipped = None if force else _skipped(node, entry, inputs, run)
                outcome = skipped or run_one(node, inputs, run, force)
                result.outcomes.append(outcome)
                result.datasets[node.name] = outcome.dataset
                _warn_of_drop_rates(outcome, run, recipe.execution.drop_rate_tolerance)
                on_outcome(outcome)
            elif entry.action == Action.SKIP and entry.dataset is not None:
                tell_warnings(entry.dataset, run)
                result.datasets[node.name] = entry.dataset
        _move_labels(recipe, selection, result, run)
    return result


def _move_labels(recipe: Recipe, selection: StageSelection, result: RunResult, run: RunContext) -> None:
    """The run is complete: what it made, and what of the recipe stood already, is what the label means from now on."""
    stages = [node.name for node in recipe.nodes]
    whole = set(stages) <= result.datasets.keys() and (not selection.only or set(stages) <= set(selection.only))
    done = {outcome.stage for outcome in result.outcomes}
    # What a run of a part did not work on is only looked at: it is no reason to move a label.
    made = {name: dataset for name, dataset in result.datasets.items() if whole or name in done}
    sentences = move_labels(run.store, run.label, made, stages, whole=whole, latest=run.follow_latest)
    for sentence in sentences:
        run.record.event("label_stays", message=sentence)
        run.reporter.message(result.outcomes[-1].stage if result.outcomes else recipe.name, sentence)


def _warn_of_drop_rates(outcome: StageOutcome, run: RunContext, tolerance: float) -> None:
    """Say it where a stage drops nearly all of a source, or another share than the snapshot before. It never fails a run."""
    if outcome.action == Action.SKIP:
        return
    for stage, sentence in emptied_sources([outcome.dataset]):
        run.record.event("source_emptied", stage=stage, message=sentence)
        run.reporter.message(stage, f"warning: {sentence}")
    found = rate_changes(run.store, outcome.dataset, tolerance)
    if found is not None and found.changes:
        run.record.event("drop_rates_moved", **asdict(found))
        for sentence in found.sentences():
            run.reporter.message(outcome.stage, f"warning: {sentence}")


def _skipped(node: StageNode, entry: StagePlan, inputs: Mapping[str, Dataset], run: RunContext) -> StageOutcome | None:
    """What is published costs a look at its manifest: no flow run, and no process on another pool.

    The look is taken where the plan could not know or found it published: a fingerprint may take the listing of many
    thousand archives.
    """
    known_missing = entry.fingerprint is not None and entry.action != Action.SKIP
    return None if known_missing else reuse_published(node, inputs, run)


def _use(entry: StagePlan, run: RunContext) -> StageOutcome:
    """A stage whose place another run's dataset takes."""
    assert entry.dataset is not None
    run.record.event("stage_skipped", stage=entry.stage, fingerprint=entry.fingerprint, reason=entry.reason)
    run.reporter.message(entry.stage, f"SKIP: {entry.reason}")
    tell_warnings(entry.dataset, run)
    return StageOutcome(entry.stage, entry.action, entry.reason, entry.dataset)


def resolve_inputs(node: StageNode, datasets: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The datasets a stage reads, by role. Raises Blocked where one is not published."""
    inputs = {}
    for role, upstream in node.upstream.items():
        if upstream not in datasets:
            raise Blocked(
                f"stage {node.name!r} needs dataset {upstream!r}, which is not published with this recipe's settings",
                remedy=f"Run from there: --start-at {upstream}.",
            )
        inputs[role] = datasets[upstream]
    return inputs
