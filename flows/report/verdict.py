"""What a reader wants to know first: did it work? Each promise of the pipeline is held against its figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from flows.provenance.notices import extent, missing, refused_steps, warnings
from flows.report.documents import StageFates
from flows.report.learning import metrics_of, read_json_if
from infra.store.dataset import Dataset

State = Literal["good", "doubtful", "bad"]
TEXT_METRICS = ("nats_per_token", "bits_per_byte")
PARENTS = {"sft": ("pretrain",), "ppo": ("sft", "pretrain"), "dpo": ("sft", "pretrain"), "grpo": ("sft", "pretrain")}
"""What each model is trained from; of several the nearest that was evaluated."""
TOLERATED = 0.01
"""A model that was taught to answer may predict other text worse by so much before it is said."""
MANY_REFUSED = 0.02


@dataclass(frozen=True)
class Finding:
    """A promise, whether it was kept, and the figures that say so."""

    state: State
    title: str
    figures: str


def checks(datasets: Mapping[str, Dataset], fates: Sequence[StageFates]) -> list[Finding]:
    """Every promise that the datasets at hand can speak to; those that were not kept, and the doubtful ones, first."""
    found = [
        *_conservation(datasets, fates),
        *_units(datasets),
        *_warned(datasets),
        *_lossless(datasets.get("tokenizer")),
        *_learnt(datasets),
        *_applied(datasets),
        *_reward(datasets.get("reward")),
        *_ppo(datasets.get("ppo")),
        *_dpo(datasets.get("dpo")),
        *_grpo(datasets.get("grpo")),
        *_remembered(datasets.get("evaluate")),
    ]
    return sorted(found, key=lambda check: ("bad", "doubtful", "good").index(check.state))


def _conservation(datasets: Mapping[str, Dataset], fates: Sequence[StageFates]) -> Iterator[Finding]:
    if not fates:
        return
    balanced = all(stage.incoming == stage.kept + stage.accounted for stage in fates)
    joined = all(after.incoming == before.kept for before, after in pairwise(fates))
    total = fates[0].incoming
    if not (balanced and joined):
        yield Finding("bad", "Documents are unaccounted for", "in ≠ kept + dropped + failed at some stage")
    elif any(not datasets[stage.name].manifest.complete for stage in fates):
        figures = (
            f"{total:,} were read, and each was kept or is in a ledger; the files that are missing are named above"
        )
        yield Finding("bad", "Not every document was read", figures)
    else:
        yield Finding("good", "Every document has a fate", f"{total:,} came in; each was kept or is in a ledger")


def _units(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    lost = missing(datasets)
    total = sum(dataset.manifest.units.total for dataset in datasets.values())
    if lost:
        yield Finding("bad", "Data is missing", "; ".join(f"{each.stage}: {extent(each)}" for each in lost))
    elif total:
        yield Finding("good", "No unit failed", f"{total:,} units of work")


def _warned(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """What stages warn of, beside the losses that have a check of their own."""
    warned = warnings(datasets)
    if warned:
        stages = ", ".join(dict.fromkeys(stage for stage, _ in warned))
        yield Finding("doubtful", f"{len(warned)} warning{'s' if len(warned) > 1 else ''}", f"from {stages}: see above")


def _lossless(tokenizer: Dataset | None) -> Iterator[Finding]:
    report = read_json_if(tokenizer, "data/report.json")
    if report:
        sources = report["sources"].values()
        lossy, texts = sum(s["lossy"] for s in sources), sum(s["documents"] for s in sources)
        differs = sum(s["hub_differs"] for s in sources)
        figures = f"{texts:,} texts come back unchanged; Hugging Face ids differ on {differs}"
        yield Finding("bad" if lossy else "good", "The tokenizer loses nothing", figures)


def _learnt(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Held-out loss where it was evaluated, the last training loss otherwise, against the unigram entropy."""
    found = _evaluated(datasets.get("evaluate")) or _trained(datasets)
    if found is not None:
        loss, entropy, what = found
        state: State = "good" if loss < entropy else "bad"
        yield Finding(
            state, "The model beats word frequencies", f"{what} {loss:.3f} nats a token, unigram {entropy:.3f}"
        )


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


def _applied(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Steps that a guard skipped: a few in many are what it is for, one in fifty is a setting to look at."""
    refused = {name: refused_steps(dataset) for name, dataset in datasets.items()}
    refused = {name: number for name, number in refused.items() if number}
    if refused:
        steps = {name: max((line["step"] for line in metrics_of(datasets[name])), default=0) for name in refused}
        many = any(number > 1 and number >= MANY_REFUSED * steps[name] for name, number in refused.items())
        figures = ", ".join(f"{number:,} of {name}" for name, number in refused.items())
        yield Finding("doubtful" if many else "good", "Some steps were not applied", figures)


def _remembered(evaluate: Dataset | None) -> Iterator[Finding]:
    """Whether a model still predicts held-out text as well as the one it was made from."""
    figures = read_json_if(evaluate, "data/evaluation.json") or {}
    rows = [row for row in figures.get("tasks", []) if row["metric"] in TEXT_METRICS]
    # The loss a token sums up all sources; without it each source speaks for itself.
    rows = [row for row in rows if row["metric"] == TEXT_METRICS[0]] or rows
    paired = [row for row in figures.get("comparisons", []) if row["metric"] in TEXT_METRICS]
    steps = [step for group in _by_task(rows) for step in _steps(group, paired)]
    worse = [step for step in steps if step.worse]
    if worse:
        yield Finding("doubtful", "Later stages make held-out text worse", _sentence(worse))
    elif steps:
        yield Finding("good", "Held-out text is no worse after alignment", _sentence(steps))


@dataclass(frozen=True)
class _Step:
    """A model beside the one it was trained from, on the same held-out text."""

    worse: bool
    change: str
    unit: str


def _by_task(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Mapping[str, Any]]]:
    """The rows of each task, by model."""
    for key in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        yield {row["model"]: row for row in rows if (row["task"], row["metric"]) == key}


def _steps(models: Mapping[str, Mapping[str, Any]], paired: Sequence[Mapping[str, Any]]) -> Iterator[_Step]:
    for name, parents in PARENTS.items():
        parent = next((each for each in parents if each in models), None)
        if name in models and parent is not None:
            before, after = models[parent], models[name]
            differences = [row for row in paired if row["model"] == f"{name} - {parent}"]
            certain = after["low"] > before["high"] or any(row["low"] > 0 for row in differences)
            worse = certain and after["value"] > before["value"] * (1 + TOLERATED)
            task = "" if after["task"] == "heldout" else f" on {after['task']}"
            unit = after["metric"].replace("_per_", " a ").replace("_", " ")
            yield _Step(worse, f"{parent} {before['value']:.2f} → {name} {after['value']:.2f}{task}", unit)


def _sentence(steps: Sequence[_Step]) -> str:
    return f"{'; '.join(step.change for step in steps)} ({', '.join(dict.fromkeys(step.unit for step in steps))})"


def _reward(reward: Dataset | None) -> Iterator[Finding]:
    figures = read_json_if(reward, "data/reward.json")
    if figures:
        accuracy = figures["accuracy"]
        yield Finding(_against(accuracy, 0.5), "The reward model is better than chance", _percent(accuracy))


def _ppo(ppo: Dataset | None) -> Iterator[Finding]:
    figures = read_json_if(ppo, "data/reward_eval.json")
    if figures:
        gain = figures["reward"]["gain"]
        text = f"reward {gain['value']:+.3f} over SFT ({gain['low']:+.3f} to {gain['high']:+.3f})"
        yield Finding(_against(gain, 0.0), "PPO raises the reward", text)


def _dpo(dpo: Dataset | None) -> Iterator[Finding]:
    figures = read_json_if(dpo, "data/dpo.json")
    if figures:
        accuracy = figures["accuracy"]
        yield Finding(_against(accuracy, 0.5), "DPO prefers the chosen replies", _percent(accuracy))


def _grpo(grpo: Dataset | None) -> Iterator[Finding]:
    figures = read_json_if(grpo, "data/grpo.json")
    if figures:
        before, after = (figures[when]["solved"] for when in ("before", "after"))
        text = f"{before['value']:.1%} → {after['value']:.1%} of {after['n']:,} held-out problems"
        yield Finding(_against(figures["gain"], 0.0), "GRPO solves more", text)


def _against(estimate: Mapping[str, Any], bar: float) -> State:
    """Only an interval that leaves the bar out says anything for certain."""
    if estimate["low"] > bar:
        return "good"
    return "bad" if estimate["high"] < bar else "doubtful"


def _percent(estimate: Mapping[str, Any]) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    return f"{value:.1%} of {estimate['n']:,} held-out pairs ({low:.1%} to {high:.1%})"
