"""What a reader wants to know first: did it work? Each promise of the pipeline is held against its figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from flows.report.documents import StageFates
from flows.report.learning import read_json_if
from infra.store.dataset import Dataset

State = Literal["good", "doubtful", "bad"]


@dataclass(frozen=True)
class Check:
    """A promise, whether it was kept, and the figures that say so."""

    state: State
    title: str
    figures: str


def checks(datasets: Mapping[str, Dataset], fates: Sequence[StageFates]) -> list[Check]:
    """Every promise that the datasets at hand can speak to."""
    return [
        *_conservation(fates),
        *_units(datasets),
        *_lossless(datasets.get("tokenizer")),
        *_learnt(datasets),
        *_reward(datasets.get("reward")),
        *_ppo(datasets.get("ppo")),
        *_dpo(datasets.get("dpo")),
    ]


def _conservation(fates: Sequence[StageFates]) -> Iterator[Check]:
    if not fates:
        return
    balanced = all(stage.incoming == stage.kept + sum(count for _, count in stage.ranked) for stage in fates)
    joined = all(after.incoming == before.kept for before, after in pairwise(fates))
    total = fates[0].incoming
    if balanced and joined:
        yield Check("good", "Every document has a fate", f"{total:,} came in; each was kept or is in a ledger")
    else:
        yield Check("bad", "Documents are unaccounted for", "in ≠ kept + dropped + failed at some stage")


def _units(datasets: Mapping[str, Dataset]) -> Iterator[Check]:
    failed = {name: len(dataset.manifest.units.failed) for name, dataset in datasets.items()}
    failed = {name: number for name, number in failed.items() if number}
    total = sum(dataset.manifest.units.total for dataset in datasets.values())
    if failed:
        where = ", ".join(f"{number} in {name}" for name, number in failed.items())
        yield Check("doubtful", "Some units failed", where)
    elif total:
        yield Check("good", "No unit failed", f"{total:,} units of work")


def _lossless(tokenizer: Dataset | None) -> Iterator[Check]:
    report = read_json_if(tokenizer, "data/report.json")
    if report:
        sources = report["sources"].values()
        lossy, texts = sum(s["lossy"] for s in sources), sum(s["documents"] for s in sources)
        differs = sum(s["hub_differs"] for s in sources)
        figures = f"{texts:,} texts come back unchanged; Hugging Face ids differ on {differs}"
        yield Check("bad" if lossy else "good", "The tokenizer loses nothing", figures)


def _learnt(datasets: Mapping[str, Dataset]) -> Iterator[Check]:
    """Held-out loss where it was evaluated, the last training loss otherwise, against the unigram entropy."""
    found = _evaluated(datasets.get("evaluate")) or _trained(datasets)
    if found is not None:
        loss, entropy, what = found
        state: State = "good" if loss < entropy else "bad"
        yield Check(state, "The model beats word frequencies", f"{what} {loss:.3f} nats a token, unigram {entropy:.3f}")


def _evaluated(evaluate: Dataset | None) -> tuple[float, float, str] | None:
    rows = (read_json_if(evaluate, "data/evaluation.json") or {}).get("tasks", [])
    losses = {row["model"]: row["value"] for row in rows if row["metric"] == "nats_per_token"}
    if {"pretrain", "unigram"} <= losses.keys():
        return losses["pretrain"], losses["unigram"], "held-out loss"
    return None


def _trained(datasets: Mapping[str, Dataset]) -> tuple[float, float, str] | None:
    stats = read_json_if(datasets.get("shards"), "data/stats.json")
    loss = datasets["pretrain"].manifest.stats.get("loss_last") if "pretrain" in datasets else None
    return (loss, stats["unigram_entropy_nats"], "last training loss") if stats and loss is not None else None


def _reward(reward: Dataset | None) -> Iterator[Check]:
    figures = read_json_if(reward, "data/reward.json")
    if figures:
        accuracy = figures["accuracy"]
        yield Check(_against(accuracy, 0.5), "The reward model is better than chance", _percent(accuracy))


def _ppo(ppo: Dataset | None) -> Iterator[Check]:
    figures = read_json_if(ppo, "data/reward_eval.json")
    if figures:
        gain = figures["reward"]["gain"]
        text = f"reward {gain['value']:+.3f} over SFT ({gain['low']:+.3f} to {gain['high']:+.3f})"
        yield Check(_against(gain, 0.0), "PPO raises the reward", text)


def _dpo(dpo: Dataset | None) -> Iterator[Check]:
    figures = read_json_if(dpo, "data/dpo.json")
    if figures:
        accuracy = figures["accuracy"]
        yield Check(_against(accuracy, 0.5), "DPO prefers the chosen replies", _percent(accuracy))


def _against(estimate: Mapping[str, Any], bar: float) -> State:
    """Only an interval that leaves the bar out says anything for certain."""
    if estimate["low"] > bar:
        return "good"
    return "bad" if estimate["high"] < bar else "doubtful"


def _percent(estimate: Mapping[str, Any]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    return f"{value:.1%} of {estimate['n']:,} held-out pairs ({low:.1%} to {high:.1%})"
