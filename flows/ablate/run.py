"""A lab from its file to its verdicts: corpora, trials, comparison, page.

plan_lab    what there is to train, and how long it will take; nothing is built
run_lab     what of that is not published yet, then the comparison of all
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.ablate.corpora import Corpus, build_corpora, plan_documents
from flows.ablate.lab import SAME, Lab, branch_tokens, trunk_arm, trunk_config
from flows.ablate.page import leave_lab_page
from flows.ablate.trials import Measured, RunGroup, groups_of, run_trials
from flows.cancellation import recorded_end
from flows.context import run_context, terminal_reporter
from flows.execute import RunOne, resolve_inputs, run_directly
from flows.recipe import Recipe
from flows.report.learning import curve, metrics_of
from infra.config import canonical_json, identity
from infra.errors import Blocked
from infra.fingerprint import fingerprint_payload, short_fingerprint
from infra.planning import Action
from infra.progress import Reporter, Reporters, describe_seconds
from infra.runner import StageOutcome, published_by
from infra.runs import RunRecord
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from training.answers import ITEMS
from training.comparison import Comparison, compare
from training.metrics import flops_per_token
from training.pretrain import STAGE, PretrainConfig

CORE_FLOPS = 1e11
"""What one core of a usual machine trains with, where no training of this workspace says better."""
START_S = 20.0
"""To start a training, publish it and measure it."""


@dataclass(frozen=True)
class LabPlan:
    """What is to be done. ``stages`` counts those of the arms' data that are not published, shared ones once."""

    lab: str
    arms: tuple[str, ...]
    trainings: int
    published: int
    tokens: int
    """That remain to be trained on."""
    stages: int
    hours: float
    basis: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LabResult:
    """What a lab says."""

    lab: Lab
    corpora: Mapping[str, Corpus]
    measured: Sequence[Measured]
    comparison: Comparison
    seconds: float
    page: str = ""

    def arms(self) -> list[dict[str, Any]]:
        """A row of figures for each arm."""
        rows = []
        for arm in self.lab.trained:
            corpus = self.corpora[self.lab.corpus_of(arm)]
            trained = [each.model.manifest.stats["tokens"] for each in self.measured if each.trial.arm == arm]
            rows.append(
                {
                    "arm": arm,
                    "documents": corpus.documents,
                    "tokens": round(sum(trained) / len(trained)),
                    "unique_tokens": corpus.unique_tokens,
                    "passes": round(branch_tokens(self.lab.config) / corpus.unique_tokens, 3),
                    "bytes_per_token": round(corpus.bytes_per_token, 4),
                }
            )
        return rows

    def as_dict(self) -> dict[str, Any]:
        found = self.comparison
        return {
            "lab": self.lab.name,
            "baseline": self.lab.baseline,
            "control": self.lab.control,
            "arms": self.arms(),
            "effects": [asdict(each) for each in found.effects],
            "verdicts": [asdict(each) for each in found.verdicts],
            "coin_flips": list(found.coin_flips),
            "mde": found.minimum_detectable_effect,
            "seconds": round(self.seconds, 1),
            "page": self.page,
        }


def run_lab(
    lab: Lab,
    store: Store,
    *,
    quiet: bool = False,
    reporter: Reporter | None = None,
    run_one: RunOne = run_directly,
    run_group: RunGroup = lambda group, work: work(),
) -> LabResult:
    """Build, train and measure whatever is not published, and compare. ``run_group`` says how the trainings of an arm and
    seed are carried out (as a flow run of their own)."""
    began = time.monotonic()
    with terminal_reporter(quiet) as terminal:
        record = RunRecord.start(store, lab.label())
        record.save_plan({"lab": lab.address, "overrides": list(lab.overrides), "selection": {"only": list(lab.asked)}})
        with recorded_end(record):
            return _run(lab, lab_context(lab, store, record, reporter or terminal), run_one, run_group, began)


def lab_context(lab: Lab, store: Store, record: RunRecord, reporter: Reporter) -> RunContext:
    """As of the base recipe's run, but no label of others moves."""
    base = run_context(lab.recipes[lab.baseline], store, record, reporter)
    return replace(base, label=lab.label(), recipe=lab.label(), follow_latest=False)


def _run(lab: Lab, run: RunContext, run_one: RunOne, run_group: RunGroup, began: float) -> LabResult:
    lab, corpora = build_corpora(lab, run, _labelled(run_one))
    run.reporter.message("trials", describe_plan(_remaining(lab, corpora, run.store, 0)))
    workers = lab.recipes[lab.baseline].execution.workers
    measured = run_trials(lab, corpora, run, workers, run_group)
    compared = compare(
        items_of(measured), baseline=lab.baseline, same=SAME, control=lab.control, tokens=branch_tokens(lab.config)
    )
    result = LabResult(lab, corpora, measured, compared, time.monotonic() - began)
    page = leave_lab_page(run.store, result.as_dict(), lab, corpora, measured)
    return replace(result, page=page, seconds=time.monotonic() - began)


def _labelled(run_one: RunOne) -> RunOne:
    """What is made is found under the label of its context, and so kept."""

    def work(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
        outcome = run_one(node, inputs, run, force)
        run.store.set_ref(node.name, run.label, outcome.dataset.manifest.fingerprint)
        return outcome

    return work


def items_of(measured: Sequence[Measured]) -> pa.Table:
    """What every model said of every item, as the comparison wants it."""
    tables = []
    for each in measured:
        items = pq.read_table(each.items.local(ITEMS))
        trial = each.trial
        for name, value, kind in (
            ("rate", trial.rate, pa.float64()),
            ("seed", trial.config.seed, pa.int64()),
            ("arm", trial.arm, pa.string()),
        ):
            items = items.add_column(0, name, pa.array([value] * items.num_rows, kind))
        tables.append(items)
    return pa.concat_tables(tables)


# ---- before ---------------------------------------------------------------------------------------------------------


def plan_lab(lab: Lab, store: Store) -> LabPlan:
    """What a run would do. Builds nothing; raises what a run would refuse, as far as it is known by now."""
    plans = plan_documents(lab, store)
    stages = {
        _identity(lab.recipes[arm], entry.stage)
        for arm, entries in plans.items()
        for entry in entries
        if entry.action is not Action.SKIP
    }
    if stages:
        return _remaining(lab, {}, store, len(stages))
    context = lab_context(lab, store, RunRecord("plan", store.run_url("plan")), Reporters([]))
    try:
        settled, corpora = build_corpora(lab, context, _found)
    except Blocked:  # the tokenizer and the rows, or some of them
        return _remaining(lab, {}, store, 1 + len(lab.recipes))
    return _remaining(settled, corpora, store, 0)


def _found(node: StageNode, inputs: Mapping[str, Dataset], run: RunContext, force: bool) -> StageOutcome:
    """What is published, instead of running the stage."""
    dataset = published_by(node, inputs, run)
    if dataset is None:
        raise Blocked(f"{node.name} is not published")
    return StageOutcome(node.name, Action.SKIP, "published", dataset)


def _identity(recipe: Recipe, stage: str) -> str:
    """The same for stages of two arms that do the same to the same."""
    node = recipe.node(stage)
    before = [_identity(recipe, name) for name in sorted(set(node.upstream.values()))]
    return canonical_json([stage, identity(node.config), before])


def _remaining(lab: Lab, corpora: Mapping[str, Corpus], store: Store, stages: int) -> LabPlan:
    """The trainings that are not published; all of them as long as the corpora are not there."""
    trials = [trial for group in groups_of(lab) for trial in group]
    trunks = {rate: trunk_config(lab, rate) for rate in lab.config.rates} if lab.config.spend == "anneal" else {}
    trunk: dict[str, Dataset] = {}
    waiting: list[PretrainConfig] = []
    for rate, config in trunks.items():
        found = _published(config, corpora[trunk_arm(lab)].datasets, store) if corpora else None
        trunk |= {f"{rate:g}": found} if found else {}
        waiting += [] if found else [config]
    for trial in trials:
        known = corpora and (not trunks or f"{trial.rate:g}" in trunk)
        datasets = {**corpora[lab.corpus_of(trial.arm)].datasets} if known else {}
        if trunks and known:
            datasets["pretrain"] = trunk[f"{trial.rate:g}"]
        if not known or _published(trial.config, datasets, store) is None:
            waiting.append(trial.config)
    recipe = lab.recipes[lab.baseline]
    vocabulary, rows = (dict(recipe.node(name).config) for name in ("tokenizer", "shards"))
    shape = trials[0].config.model.model_copy(update={"vocab_size": vocabulary["vocab_size"]})
    tokens = sum(config.tokens for config in waiting)
    speed, basis = _core_speed(store, rows["seq_len"])
    seconds = tokens * flops_per_token(shape, rows["seq_len"]) / speed + START_S * len(waiting)
    workers = max(1, min(recipe.execution.workers, len(waiting)))
    total = len(trials) + len(trunks)
    return LabPlan(
        lab.name, tuple(lab.trained), total, total - len(waiting), tokens, stages, seconds / workers / 3600, basis
    )


def _published(config: PretrainConfig, datasets: Mapping[str, Dataset], store: Store) -> Dataset | None:
    node = StageNode(STAGE, config)
    digests = {role: dataset.digest for role, dataset in resolve_inputs(node, datasets).items()}
    return store.find(node.name, short_fingerprint(fingerprint_payload(node.stage, config, digests)))


def _core_speed(store: Store, seq_len: int) -> tuple[float, str]:
    """FLOP/s of one thread, as the newest pretraining of this workspace had them, and where that comes from."""
    newest = sorted(store.datasets(STAGE.name), key=lambda dataset: -dataset.manifest.provenance.ended)
    for dataset in newest[:1]:
        config = PretrainConfig.model_validate(dataset.manifest.config)
        speeds = sorted(value for _, value in curve(metrics_of(dataset), "tokens_per_s"))
        threads = config.ranks * config.nodes * config.threads_per_rank
        if speeds:
            flops = flops_per_token(config.model, seq_len) * speeds[len(speeds) // 2] / threads
            return flops, f"{flops:.1e} FLOP/s a core, as measured in {dataset.name}/{dataset.manifest.fingerprint}"
    return CORE_FLOPS, f"{CORE_FLOPS:.0e} FLOP/s a core, assumed: nothing was trained in this workspace yet"


def describe_plan(plan: LabPlan) -> str:
    """One line: ``24 trainings (6 published), 21.6M tokens to go, about 40 min (…)``."""
    done = f" ({plan.published} published)" if plan.published else ""
    data = f", {plan.stages} stages of the data path before them" if plan.stages else ""
    return (
        f"{plan.trainings} trainings{done}, {plan.tokens / 1e6:.3g}M tokens to go, about "
        f"{describe_seconds(3600 * plan.hours)}{data}; {plan.basis}"
    )
