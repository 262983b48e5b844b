"""What changed since another run: which datasets were made anew and why, and the figures that moved with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flows.provenance.run_history import OtherRun
from flows.report.learning import read_json_if
from flows.stages import in_order, keeps_fates
from infra.fingerprint import describe_change
from infra.store.dataset import Dataset

Tone = Literal["better", "worse", "neutral"]
RULES = 4
LEAST_SHARE = 0.005
"""Rules whose share of a stage's documents moved by less are not listed."""


@dataclass(frozen=True)
class ChangedFigure:
    """A figure that is not what it was. ``tone`` says whether that is for the better, where one can say so."""

    stage: str
    name: str
    before: str
    now: str
    change: str
    tone: Tone = "neutral"


@dataclass(frozen=True)
class RebuiltDataset:
    """A dataset that the other run did not have."""

    stage: str
    before: str
    now: str
    reason: str
    same_output: bool


@dataclass(frozen=True)
class Changes:
    """Everything that differs from the other run."""

    run: str
    remade: tuple[RebuiltDataset, ...]
    figures: tuple[ChangedFigure, ...]
    kept: tuple[str, ...]
    """Stages whose datasets are the other run's own."""
    added: tuple[str, ...]
    missing: tuple[str, ...]


def changes(datasets: Mapping[str, Dataset], beside: OtherRun | None) -> Changes | None:
    """None where there is no other run."""
    if beside is None:
        return None
    before = beside.datasets
    names = [dataset.name for dataset in in_order(datasets.values()) if dataset.name != "report"]
    shared = [name for name in names if name in before]
    remade = [_remade(before[name], datasets[name]) for name in shared if before[name].root != datasets[name].root]
    moved = [name for name in shared if before[name].digest != datasets[name].digest]
    figures = [figure for name in moved for figure in _figures(name, before[name], datasets[name])]
    return Changes(
        beside.name,
        tuple(remade),
        tuple(figures),
        tuple(name for name in shared if before[name].root == datasets[name].root),
        tuple(name for name in names if name not in before),
        tuple(dataset.name for dataset in in_order(before.values()) if dataset.name not in datasets),
    )


def _remade(before: Dataset, now: Dataset) -> RebuiltDataset:
    reason = describe_change(before.manifest.payload, now.manifest.payload)
    same = before.digest == now.digest
    return RebuiltDataset(now.name, before.manifest.fingerprint, now.manifest.fingerprint, reason, same)


def _figures(name: str, before: Dataset, now: Dataset) -> Iterator[ChangedFigure]:
    if keeps_fates(now):
        yield from _counts(name, before, now)
    if name == "shards":
        totals = [read_json_if(each, "data/stats.json")["total_tokens"] for each in (before, now)]
        yield from _number(name, "training tokens", *totals)
    if name == "evaluate":
        yield from _evaluated(before, now)
    for key, label in _STATS.get(name, ()):
        old, new = (each.manifest.stats.get(key) for each in (before, now))
        if isinstance(old, (int, float)) and isinstance(new, (int, float)):
            yield from _lower_is_better(name, label, old, new)
    bits = [each.manifest.stats.get("bits_per_byte") or {} for each in (before, now)]
    for source in bits[1]:
        if source in bits[0]:
            yield from _lower_is_better(name, f"bits per byte of {source}", bits[0][source], bits[1][source])


_STATS: dict[str, Sequence[tuple[str, str]]] = {
    "pretrain": (("loss_last", "last training loss"),),
    "sft": (("validation_loss", "held-out loss"),),
}


def _counts(name: str, before: Dataset, now: Dataset) -> Iterator[ChangedFigure]:
    old, new = before.manifest.counts, now.manifest.counts
    yield from _number(name, "documents in", old.incoming, new.incoming)
    yield from _number(name, "documents kept", old.kept, new.kept)
    shares = {
        rule: tuple(
            counts.dropped.get(rule, 0) / counts.incoming if counts.incoming else 0.0 for counts in (old, new)
        )
        for rule in old.dropped.keys() | new.dropped.keys()
    }  # fmt: skip
    ranked = sorted(shares, key=lambda rule: (-abs(shares[rule][1] - shares[rule][0]), rule))
    for rule in ranked[:RULES]:
        first, second = shares[rule]
        if abs(second - first) >= LEAST_SHARE:
            yield ChangedFigure(
                name, f"dropped by {rule}", f"{first:.1%}", f"{second:.1%}", f"{100 * (second - first):+.1f} points"
            )
    if old.failed != new.failed:
        yield from _number(name, "documents failed", old.failed, new.failed)


def _evaluated(before: Dataset, now: Dataset) -> Iterator[ChangedFigure]:
    """Figures whose intervals lie apart; the others may have moved by chance."""
    old, new = (_tasks(each) for each in (before, now))
    for key, row in new.items():
        past = old.get(key)
        if past is None or not (row["low"] > past["high"] or row["high"] < past["low"]):
            continue
        model, task, metric = key
        lower = metric in ("bits_per_byte", "nats_per_token")
        better = (row["value"] < past["value"]) == lower
        label = f"{model} on {task}, {metric.replace('_', ' ')}"
        shift = f"{row['value'] - past['value']:+.3f}"
        tone: Tone = "better" if better else "worse"
        yield ChangedFigure("evaluate", label, f"{past['value']:.3f}", f"{row['value']:.3f}", shift, tone)


def _tasks(evaluate: Dataset) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = (read_json_if(evaluate, "data/evaluation.json") or {}).get("tasks", [])
    return {(row["model"], row["task"], row["metric"]): row for row in rows}


def _number(stage: str, name: str, before: float, now: float) -> Iterator[ChangedFigure]:
    if before != now:
        share = f" ({(now - before) / before:+.1%})" if before else ""
        yield ChangedFigure(stage, name, f"{before:,.0f}", f"{now:,.0f}", f"{now - before:+,.0f}{share}")


def _lower_is_better(stage: str, name: str, before: float, now: float) -> Iterator[ChangedFigure]:
    if f"{before:.3f}" != f"{now:.3f}":
        tone: Tone = "better" if now < before else "worse"
        yield ChangedFigure(stage, name, f"{before:.3f}", f"{now:.3f}", f"{now - before:+.3f}", tone)
