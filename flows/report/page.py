"""Putting the page together: every section is made from the datasets that are there, and left out without them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.report import documents, learning, origin, verdict
from flows.report.charts import Series, line_chart
from flows.report.river import river
from infra.store.dataset import Dataset

Datasets = Mapping[str, Dataset]
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    model: str
    question: str
    answer: str


def write_page(
    datasets: Datasets,
    path: Path,
    *,
    replies: Sequence[Reply] = (),
    comparisons: Sequence[Mapping[str, Any]] = (),
    samples: int = 3,
) -> None:
    """Write the report on these datasets (by stage name; any subset) as one self-contained file.

    ``comparisons`` are rows of models compared besides those that the stage ``evaluate`` compares.
    """
    path.write_text(render(datasets, replies, samples, comparisons), encoding="utf-8")


def render(
    datasets: Datasets,
    replies: Sequence[Reply] = (),
    samples: int = 3,
    comparisons: Sequence[Mapping[str, Any]] = (),
) -> str:
    environment = Environment(
        loader=PackageLoader("flows", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "si": _si, "percent": _percent, "seconds": _seconds, "size": _size}
    return environment.get_template("report.html.j2").render(**sections(datasets, replies, samples, comparisons))


def sections(
    datasets: Datasets, replies: Sequence[Reply], samples: int, comparisons: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Everything the template shows; a section without its datasets is None or empty."""
    fates = documents.stage_fates(datasets, samples)
    order = documents.source_order(fates)
    colours = {source: index % 6 for index, source in enumerate(order)}
    last = next((datasets[name] for name in ("redact", "decontaminate", "dedup", "quality") if name in datasets), None)
    return {
        "made": origin.making(datasets),
        "checks": verdict.checks(datasets, fates),
        "headlines": headlines(datasets, fates),
        "fates": fates,
        "losing": columns([stage for stage in fates if stage.gone], lambda stage: min(12, len(stage.ranked)) + 3),
        "sources": order,
        "languages": documents.by_language(datasets),
        "colours": colours,
        "river": river(documents.stations(fates), colours),
        "kept": documents.kept_samples(last, samples) if last is not None and samples else [],
        "classifier": classifier(datasets),
        "dedup": dedup(datasets, fates),
        "decontaminate": decontaminate(datasets, samples),
        "redact": datasets["redact"].manifest.stats.get("masked") if "redact" in datasets else None,
        "tokenizer": learning.read_json_if(datasets.get("tokenizer"), "data/report.json"),
        "shards": learning.read_json_if(datasets.get("shards"), "data/stats.json"),
        "pretrain": pretrain(datasets),
        "alignment": columns(alignment(datasets, samples), _card_height),
        "evaluation": evaluation(datasets, comparisons),
        "chat": chat(replies),
        "graph": origin.graph(datasets),
        "rows": origin.dataset_rows(datasets),
    }


def columns(items: Sequence[T], height: Callable[[T], float]) -> list[list[T]]:
    """Items in two columns of about the same height, each next one where there is more room."""
    found: list[list[T]] = [[], []]
    heights = [0.0, 0.0]
    for item in items:
        shorter = heights.index(min(heights))
        found[shorter].append(item)
        heights[shorter] += height(item)
    return found if items else []


def headlines(datasets: Datasets, fates: Sequence[documents.StageFates]) -> list[tuple[str, str]]:
    """The big numbers at the top."""
    found: list[tuple[str, str]] = []
    if fates:
        found.append((_count(fates[0].incoming), "records read"))
        found.append((_count(fates[-1].kept), "documents kept"))
    shards = learning.read_json_if(datasets.get("shards"), "data/stats.json")
    if shards:
        found.append((_si(shards["total_tokens"]), "training tokens"))
    if "pretrain" in datasets:
        stats = datasets["pretrain"].manifest.stats
        if stats.get("parameters"):
            found.append((_si(stats["parameters"]), "parameters"))
    total = sum(origin.seconds_of(dataset) for dataset in datasets.values())
    if total:
        found.append((_seconds(total), "of work"))
    return found


def classifier(datasets: Datasets) -> dict[str, Any] | None:
    figures = learning.read_json_if(datasets.get("classifier"), "data/report.json")
    if not figures:
        return None
    bands = [(band["score"], band["good"]) for band in figures["calibration"]]
    chart = line_chart(
        [Series("perfect", [(0, 0), (1, 1)], 5), Series("this classifier", bands, 0, dots=True)],
        x="score",
        y="share that is good",
        describe="Calibration: share of good texts by score",
        x_range=(0, 1),
        y_range=(0, 1.02),
    )
    return {**figures, "chart": chart}


def dedup(datasets: Datasets, fates: Sequence[documents.StageFates]) -> dict[str, Any] | None:
    if "dedup" not in datasets:
        return None
    stats = datasets["dedup"].manifest.stats
    lsh = stats.get("lsh")
    chart = Markup("")
    if lsh:
        points = [(point["similarity"], point["probability"]) for point in lsh["curve"]]
        chart = line_chart(
            [Series("chance to be nominated", points, 0)],
            x="Jaccard similarity of a pair",
            y="probability",
            describe="Chance that a pair is nominated, by its similarity",
            y_range=(0, 1.02),
        )
    stage = next(stage for stage in fates if stage.name == "dedup")
    pairs = [sample for sample in stage.samples if sample.survivor]
    return {"lsh": lsh, "chart": chart, "verification": stats.get("verification"), "stage": stage, "pairs": pairs}


def decontaminate(datasets: Datasets, samples: int) -> dict[str, Any] | None:
    dataset = datasets.get("decontaminate")
    if dataset is None:
        return None
    evidence: list[dict[str, Any]] = []
    for output in dataset.files("evidence/", ".parquet"):
        if output.rows and len(evidence) < 2 * samples:
            evidence += learning.first_rows(dataset.local(output.path), 2 * samples - len(evidence))
    return {"evaluations": dataset.manifest.stats.get("evaluations") or {}, "evidence": evidence}


def pretrain(datasets: Datasets) -> dict[str, Any] | None:
    dataset = datasets.get("pretrain")
    if dataset is None:
        return None
    shards = learning.read_json_if(datasets.get("shards"), "data/stats.json")
    entropy = shards["unigram_entropy_nats"] if shards else None
    lines = learning.metrics_of(dataset)
    return {
        "stats": dataset.manifest.stats,
        "loss": learning.loss_chart(lines, entropy),
        "validation": learning.validation_chart(lines),
    }


def alignment(datasets: Datasets, samples: int) -> list[dict[str, Any]]:
    """A card for each alignment stage that ran."""
    cards = [
        _sft(datasets.get("sft")),
        _preferences(datasets.get("preferences"), samples),
        _reward(datasets.get("reward")),
        _ppo(datasets.get("ppo")),
        _dpo(datasets.get("dpo")),
    ]
    return [card for card in cards if card is not None]


def _card(
    title: str, note: str, facts: Sequence[tuple[str, str]], charts: Sequence[Markup], **more: Any
) -> dict[str, Any]:
    return {"title": title, "note": note, "facts": facts, "charts": [chart for chart in charts if chart], **more}


def _card_height(card: Mapping[str, Any]) -> float:
    return 2.0 + 5 * len(card["charts"]) + 1.5 * len(card.get("exchanges", ()))


def _sft(dataset: Dataset | None) -> dict[str, Any] | None:
    if dataset is None:
        return None
    stats = dataset.manifest.stats
    facts = [("conversations", _count(stats["conversations"]))] if "conversations" in stats else []
    if "validation_loss" in stats:
        before = stats.get("validation_loss_before")
        change = f"{before:.3f} → " if before is not None else ""
        facts.append(("held-out loss", f"{change}{stats['validation_loss']:.3f}"))
    keys = [("loss", "loss of the step"), ("validation_loss", "held-out loss")]
    chart = learning.training_chart(dataset, keys, "nats per token", "Fine-tuning loss by step")
    return _card("Supervised fine-tuning", "Loss on what the assistant says.", facts, [chart])


def _preferences(dataset: Dataset | None, samples: int) -> dict[str, Any] | None:
    if dataset is None:
        return None
    pairs = dataset.manifest.stats.get("pairs") or {}
    facts = [(name.replace("_", " "), _count(number)) for name, number in pairs.items()]
    note = "The human's reply is preferred to the model's own."
    return _card("Preference pairs", note, facts, [], exchanges=learning.preference_samples(dataset, samples))


def _reward(dataset: Dataset | None) -> dict[str, Any] | None:
    figures = learning.read_json_if(dataset, "data/reward.json")
    if dataset is None or not figures:
        return None
    accuracy = figures["accuracy"]
    facts = [("held-out accuracy", _estimate(accuracy, "{:.1%}")), ("margin", f"{figures['margin']:.3f}")]
    longer = figures.get("length", {}).get("accuracy_of_choosing_the_longer")
    if longer is not None:
        facts.append(("always choosing the longer reply", f"{longer:.1%}"))
    keys = [("accuracy", "training pairs"), ("held_out_accuracy", "held-out pairs")]
    chart = learning.training_chart(dataset, keys, "accuracy", "Accuracy of the reward model by step")
    return _card("Reward model", "How often the preferred reply scores higher.", facts, [chart])


def _ppo(dataset: Dataset | None) -> dict[str, Any] | None:
    figures = learning.read_json_if(dataset, "data/reward_eval.json")
    if dataset is None or not figures:
        return None
    facts = [
        (f"reward, {name}", _estimate(figures["reward"][name], "{:+.3f}"))
        for name in ("sft", "ppo", "gain")
    ]  # fmt: skip
    facts.append(("KL to SFT", _estimate(figures["kl"], "{:.3f}")))
    reward = learning.training_chart(dataset, [("reward", "mean reward")], "reward", "Mean reward by round")
    kl = learning.training_chart(dataset, [("kl", "KL to the fine-tuned model")], "nats per reply", "KL by round")
    return _card("PPO", "Reinforcement learning from the reward model, held back by KL.", facts, [reward, kl])


def _dpo(dataset: Dataset | None) -> dict[str, Any] | None:
    figures = learning.read_json_if(dataset, "data/dpo.json")
    if dataset is None or not figures:
        return None
    facts = [
        ("held-out accuracy", _estimate(figures["accuracy"], "{:.1%}")),
        ("held-out margin", _estimate(figures["margin"], "{:+.3f}")),
    ]
    keys = [("margin", "training pairs"), ("held_out_margin", "held-out pairs")]
    chart = learning.training_chart(dataset, keys, "margin", "DPO margin by step")
    return _card("DPO", "How much further apart the policy puts the two replies.", facts, [chart])


def evaluation(datasets: Datasets, comparisons: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any] | None:
    figures = learning.read_json_if(datasets.get("evaluate"), "data/evaluation.json") or {}
    if not figures and not comparisons:
        return None
    return {
        "tasks": learning.task_tables(figures.get("tasks", [])),
        "comparisons": learning.task_tables([*comparisons, *figures.get("comparisons", [])], mark=0.0),
    }


def chat(replies: Sequence[Reply]) -> list[tuple[str, list[Reply]]]:
    """Replies by question."""
    questions = dict.fromkeys(reply.question for reply in replies)
    return [(question, [reply for reply in replies if reply.question == question]) for question in questions]


def _estimate(figure: Mapping[str, float], pattern: str) -> str:
    value, low, high = (pattern.format(figure[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _si(value: float) -> str:
    for bound, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.3g} {suffix}"
    return f"{value:.3g}" if value != int(value) else f"{int(value)}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    if value < 3600:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{int(value) // 3600} h {int(value) % 3600 // 60:02d} min"


def _size(value: float) -> str:
    for bound, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= bound:
            return f"{value / bound:.1f} {suffix}"
    return f"{value:.0f} B"
