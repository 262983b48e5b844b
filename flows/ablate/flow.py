"""A lab as a Prefect flow: a run for each arm and seed within it, the forecast first, verdicts as a table, the page as a link."""

import os
from collections.abc import Callable
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows.ablate.lab import Lab, load_lab
from flows.ablate.run import LabPlan, LabResult, describe_plan, plan_lab, run_lab
from flows.ablate.trials import Group, Measured
from flows.context import open_store
from flows.operate.artifacts import best_effort
from flows.operate.endings import as_flow_state, unwrap_at_terminal, unwrap_state
from flows.operate.flow_runs import as_deployed, our_flow
from flows.operate.report_pages import link_to, served
from flows.params import AblateParams
from flows.stage_flows import flow_reporter
from infra.store.store import Store


@our_flow(name="ablate")
def ablate(params: AblateParams = AblateParams()) -> LabPlan | LabResult:
    """Which corpus makes the better model: every arm of a lab trained with every seed at every rate, and compared.

    Args:
        params: Which lab, which of its arms, and where.
    """

    def work() -> LabPlan | LabResult:
        form = as_deployed(params)
        lab = load_lab(form.lab, form.overrides, seeds=form.seeds or None, only=form.only)
        return _carry_out(lab, open_store(form.workspace), plan_only=form.dry_run)

    return as_flow_state("ablate", work, lab_line)


def run_lab_as_flow(lab: Lab, store: Store) -> LabResult:
    """Run a lab as this flow against the configured server; errors are raised as they are without one."""

    @our_flow(name="ablate")
    def with_lab(params: AblateParams) -> LabResult:
        return as_flow_state("ablate", lambda: _carry_out(lab, store), lab_line)  # type: ignore[arg-type, return-value]

    with_lab.description = ablate.description
    form = AblateParams(
        lab=lab.address,
        overrides=list(lab.overrides),
        workspace=store.address,
        only=list(lab.asked),
        seeds=lab.config.seeds,
    )
    return unwrap_at_terminal(with_lab(form))


def _carry_out(lab: Lab, store: Store, plan_only: bool = False) -> LabPlan | LabResult:
    planned = plan_lab(lab, store)
    get_run_logger().info(describe_plan(planned))
    best_effort(lambda: _publish_plan(planned))
    if plan_only:
        return planned
    result = run_lab(lab, store, quiet=True, reporter=flow_reporter(), run_group=_as_flow_run)
    best_effort(lambda: _publish(result, lab.label()))
    return result


def _as_flow_run(group: Group, work: Callable[[], list[Measured]]) -> list[Measured]:
    """The trainings of one arm and seed as a flow run within the lab's."""
    first = group[0]

    @flow(name="trial", flow_run_name=f"{first.arm}-seed-{first.seed}", persist_result=False, log_prints=False)
    def trial(arm: str, seed: int, rates: list[float]) -> list[Measured]:
        return as_flow_state("trial", work, _trial_line)

    return unwrap_state(trial(first.arm, first.seed, [each.rate for each in group]))


def _trial_line(done: list[Measured]) -> str:
    """Bits per byte of each model, by task."""
    found = {f"{each.trial.rate:g}": each.items.manifest.stats["bits_per_byte"] for each in done}
    parts = [
        f"at {rate}: " + ", ".join(f"{task} {value:.3f}" for task, value in tasks.items())
        for rate, tasks in found.items()
    ]
    return f"trial {done[0].trial.arm}, seed {done[0].trial.seed}: bits per byte {'; '.join(parts)}"


def lab_line(made: LabPlan | LabResult) -> str:
    """What a lab came to, in one line."""
    if isinstance(made, LabPlan):
        return f"ablate: {describe_plan(made)}"
    told = [f"{row.arm} {row.word} ({row.delta:+.4f})" for row in made.comparison.verdicts]
    return f"ablate: {'; '.join(told)}; detectable {made.comparison.minimum_detectable_effect:.4f} bits per byte"


def _publish_plan(planned: LabPlan) -> None:
    rows = [{"what": name, "value": str(value)} for name, value in planned.as_dict().items()]
    create_table_artifact(rows, key="lab-plan", description=describe_plan(planned))


def _publish(result: LabResult, name: str) -> None:
    view = result.as_dict()
    figures = {row["arm"]: row for row in view["arms"]}
    rows: list[dict[str, Any]] = [
        {
            "arm": row["arm"],
            "verdict": row["word"],
            "difference": round(row["delta"], 5),
            "from": round(row["low"], 5),
            "to": round(row["high"], 5),
            "p (Holm)": round(row["p_holm"], 4),
            "documents": figures[row["arm"]]["documents"],
            "passes": figures[row["arm"]]["passes"],
        }
        for row in view["verdicts"]
    ]
    about = f"Bits per byte, less those of {view['baseline']}; negative is better. Detectable: {view['mde']:.4f}."
    create_table_artifact(rows, key="verdicts", description=about)
    api = os.environ.get("PREFECT_API_URL")
    if api and served(api, name):
        create_link_artifact(link_to(name), link_text="Open the lab's page", key="lab-page", description=view["page"])
