"""Weights of sources as a Prefect flow: what each source gets, and what that promises, as a table."""

from typing import Any

from prefect.artifacts import create_table_artifact

from flows.context import open_store
from flows.mix.run import Mixing, MixResult, plan_mix, run_mix, target_of
from flows.operate.artifacts import best_effort
from flows.operate.endings import as_flow_state, unwrap_at_terminal
from flows.operate.flow_runs import as_deployed, our_flow
from flows.params import MixParams
from flows.stage_flows import flow_reporter
from infra.store.store import Store

Made = MixResult | list[dict[str, Any]]
"""Weights, or only what is to be built for each source."""


@our_flow(name="mix")
def mix(params: MixParams = MixParams()) -> Made:
    """How much of each source: one small model a source, and the weights whose mixture reads a target best.

    Args:
        params: Of which recipe, for which texts, and where.
    """

    def work() -> Made:
        form = as_deployed(params)
        targets = tuple(target_of(file) for file in form.targets)
        mixing = Mixing(
            form.recipe, tuple(form.overrides), tuple(form.sources), targets, form.tokens, form.max_passes, form.piece
        )
        return _carry_out(mixing, open_store(form.workspace), form.dry_run)

    return as_flow_state("mix", work, mix_line)


def run_mix_as_flow(mixing: Mixing, store: Store) -> MixResult:
    """Find weights as this flow against the configured server; errors are raised as they are without one."""

    @our_flow(name="mix")
    def with_mixing(params: MixParams) -> Made:
        return as_flow_state("mix", lambda: _carry_out(mixing, store), mix_line)

    with_mixing.description = mix.description
    form = MixParams(
        recipe=mixing.recipe,
        overrides=list(mixing.overrides),
        workspace=store.address,
        sources=list(mixing.sources),
        targets=[f"{each.file}:{each.answer}" for each in mixing.targets],
        tokens=mixing.tokens,
        max_passes=mixing.max_passes,
        piece=mixing.piece,
    )
    return unwrap_at_terminal(with_mixing(form))  # type: ignore[return-value]


def _carry_out(mixing: Mixing, store: Store, plan_only: bool = False) -> Made:
    if plan_only:
        return plan_mix(mixing, store)
    result = run_mix(mixing, store, quiet=True, reporter=flow_reporter())
    best_effort(lambda: _publish(result))
    return result


def mix_line(made: Made) -> str:
    """What came of it, in one line."""
    if isinstance(made, list):
        told = [f"{row['source']} ({', '.join(row['stages']) or 'its rows are published'})" for row in made]
        return f"mix: to be built, and a model each: {'; '.join(told)}"
    weights = ", ".join(f"{row.source} {row.weight:.3f}" for row in made.rows)
    gain = made.gain
    return f"mix: {weights}; predicted {gain.value:.4f} bits per byte better ({gain.low:.4f} to {gain.high:.4f})"


def _publish(result: MixResult) -> None:
    view = result.as_dict()
    about = f"Weights for {', '.join(view['targets'])}. {mix_line(result)}"
    create_table_artifact(view["sources"], key="mixture", description=about)
