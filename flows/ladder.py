"""A ladder of small runs on a recipe's own shards, and what it says about a large one.

Each rung is an ordinary run of the stage ``pretrain`` with settings derived from its size, published under the label
``ladder-<recipe>``: a rung that is published already is not trained again, and one that was interrupted goes on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.cancellation import recorded_end
from flows.context import run_context, terminal_reporter
from flows.execute import run_directly
from flows.recipe import Recipe
from infra.errors import InputError
from infra.runs import RunRecord
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from pipeline.charts import Line, line_chart
from training.ladder import Law, Point, fit, predict, rungs
from training.metrics import flops_per_token
from training.model import ModelConfig
from training.pretrain import STAGE, PretrainConfig
from training.scale import ScalePlan, plan_scale


@dataclass(frozen=True)
class Ladder:
    """The finished rungs, their law, and the target it was asked about."""

    rungs: list[dict[str, Any]]
    law: Law
    target: ScalePlan
    metric: str

    def as_dict(self) -> dict[str, Any]:
        prediction = predict(self.law, self.target.flops)
        law = {name: getattr(self.law, name) for name in ("floor", "scale", "slope", "unit", "scatter")}
        return {
            "metric": self.metric,
            "rungs": self.rungs,
            "law": law,
            "target": {
                "parameters": self.target.parameters,
                "tokens": self.target.tokens,
                "flops": self.target.flops,
                "value": prediction.value,
                "low": prediction.low,
                "high": prediction.high,
            },
        }


def ladder_chart(ladder: Ladder, name: str) -> str:
    """The rungs, the law and the prediction for the target ``name``, as an SVG file."""
    law, at = ladder.law, math.log10(ladder.target.flops)
    rungs = [(math.log10(point.flops), point.loss) for point in law.points]
    expected = predict(law, ladder.target.flops)
    begin, end = min(rungs[0][0], at), max(rungs[-1][0], at)
    curve = [(step, law.loss(10**step)) for step in (begin + (end - begin) * part / 80 for part in range(81))]
    return line_chart(
        [
            Line("", curve, dashed=True),
            Line("", rungs, dots=True, scattered=True),
            Line("", [(at, expected.low), (at, expected.high)], colour="m1"),
            Line(name, [(at, expected.value)], colour="m1"),
        ],
        x="training FLOPs",
        y=ladder.metric,
        describe="Scaling law through the rungs of the ladder, and what it predicts",
        x_range=(begin - 0.2, end + 0.2),
        powers=True,
        alone=True,
    )


def run_ladder(
    recipe: Recipe,
    store: Store,
    sizes: Sequence[float],
    target: float,
    *,
    tokens_per_parameter: float = 20.0,
    domain: str = "",
    quiet: bool = False,
) -> Ladder:
    """Train every rung that is not there yet, smallest first, and fit the law."""
    inputs = {role: _published(store, role, recipe.name) for role in ("shards", "tokenizer")}
    stats = inputs["shards"].manifest.stats
    usual = recipe.node("pretrain").config
    assert isinstance(usual, PretrainConfig)
    settings: dict[str, Any] = {
        "vocab_size": stats["vocab_size"],
        "seq_len": stats["seq_len"],
        "tokens_per_parameter": tokens_per_parameter,
        "gpus": usual.processes,
    }
    configs = [_rung(usual, derived) for derived in rungs(sizes, **settings)]
    plan = plan_scale(parameters=target, **settings)
    done = []
    with terminal_reporter(quiet) as reporter:
        record = RunRecord.start(store, f"ladder-{recipe.name}")
        run = replace(run_context(recipe, store, record, reporter), label=f"ladder-{recipe.name}", follow_latest=False)
        with recorded_end(record):
            for config in configs:
                outcome = run_directly(StageNode(STAGE, config), inputs, run, False)
                store.set_ref(outcome.stage, run.label, outcome.dataset.manifest.fingerprint)
                done.append(_result(outcome.dataset, config, stats, domain))
    law = fit([Point(rung["flops"], rung["value"], f"{rung['parameters']:,}") for rung in done])
    return Ladder(done, law, plan, f"bits per byte, {domain or 'mean of the domains'}")


def _published(store: Store, name: str, label: str) -> Dataset:
    dataset = store.get_ref(name, label)
    if dataset is None:
        raise InputError(
            f"recipe {label!r} has no {name} yet",
            where=store.address,
            remedy=f"Make them first: headwater run {label} --stop-after shards.",
        )
    return dataset


def _rung(usual: PretrainConfig, derived: dict[str, Any]) -> PretrainConfig:
    """The recipe's way of running with one size's settings."""
    kept = {name: value for name, value in usual.model_dump().items() if name not in derived}
    optimizer = usual.optimizer.model_dump() | derived["optimizer"]
    return PretrainConfig.model_validate({**kept, **derived, "optimizer": optimizer})


def _result(dataset: Dataset, config: PretrainConfig, shards: dict[str, Any], domain: str) -> dict[str, Any]:
    """What one rung took and reached."""
    stats = dataset.manifest.stats
    by_domain: dict[str, float] = stats["bits_per_byte"]
    if domain and domain not in by_domain:
        raise InputError(
            f"the shards hold out nothing of {domain!r}", remedy=f"Domains: {', '.join(sorted(by_domain))}."
        )
    shape = ModelConfig.model_validate(config.model.model_dump() | {"vocab_size": shards["vocab_size"]})
    return {
        "dataset": f"{dataset.name}/{dataset.manifest.fingerprint}",
        "parameters": stats["parameters"],
        "tokens": stats["tokens"],
        "epochs": round(stats["steps"] * config.batch_sequences / shards["sequences"], 2),
        "flops": flops_per_token(shape, shards["seq_len"]) * stats["tokens"],
        "value": by_domain[domain] if domain else sum(by_domain.values()) / len(by_domain),
        "bits_per_byte": by_domain,
    }
