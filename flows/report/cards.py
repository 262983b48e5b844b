"""A card for each alignment stage that ran: what it promises, in figures and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from alignment.health import HEALTHY
from flows.provenance.notices import refused_steps
from flows.provenance.run_history import OtherRun
from flows.report import learning
from infra.store.dataset import Dataset

Card = dict[str, Any]
LAST_ROUNDS = 10


def alignment(datasets: Mapping[str, Dataset], samples: int, beside: Sequence[OtherRun] = ()) -> list[Card]:
    """Cards in path order; ``beside`` are other runs whose curves share the axes."""
    cards = [
        _sft(datasets.get("sft"), samples, others_of("sft", datasets, beside)),
        _preferences(datasets.get("preferences"), samples),
        _reward(datasets.get("reward"), others_of("reward", datasets, beside)),
        _ppo(datasets.get("ppo"), others_of("ppo", datasets, beside)),
        _dpo(datasets.get("dpo"), others_of("dpo", datasets, beside)),
        _grpo(datasets.get("grpo"), others_of("grpo", datasets, beside)),
    ]
    return [card for card in cards if card is not None]


def others_of(stage: str, datasets: Mapping[str, Dataset], beside: Sequence[OtherRun]) -> learning.Others:
    """Other runs' datasets of a stage, those that are not this run's own."""
    own = datasets[stage].root if stage in datasets else ""
    return [
        (run.name, run.datasets[stage]) for run in beside if stage in run.datasets and run.datasets[stage].root != own
    ]


def height(card: Mapping[str, Any]) -> float:
    """About how much room a card takes."""
    return 2.0 + 5 * len(card["charts"]) + 1.5 * len(card.get("exchanges", ())) + 1.5 * len(card.get("taught", ()))


def _card(
    title: str,
    note: str,
    facts: Sequence[tuple[str, str]],
    charts: Sequence[Markup],
    dataset: Dataset,
    others: learning.Others = (),
    **more: Any,
) -> Card:
    facts = [*facts, *_speech(dataset)]
    refused = refused_steps(dataset)
    if refused:
        facts = [*facts, ("steps not applied", f"{refused:,}")]
    course = learning.course_charts(learning.metrics_of(dataset), others)
    return {
        "title": title, "note": note, "facts": facts, "charts": [chart for chart in charts if chart], "course": course,
        **more,
    }  # fmt: skip


def _sft(dataset: Dataset | None, samples: int, others: learning.Others) -> Card | None:
    if dataset is None:
        return None
    stats = dataset.manifest.stats
    facts = [("conversations", f"{stats['conversations']:,.0f}")] if "conversations" in stats else []
    if "validation_loss" in stats:
        before = stats.get("validation_loss_before")
        change = f"{before:.3f} → " if before is not None else ""
        facts.append(("held-out loss", f"{change}{stats['validation_loss']:.3f}"))
    told = learning.read_json_if(dataset, "data/conversations.json") or {}
    facts += _of_conversations(told)
    keys = [("loss", "loss"), ("validation_loss", "held-out loss")]
    chart = learning.training_chart(dataset, keys, "nats per token", "Fine-tuning loss by step", others)
    taught = [shown["runs"] for shown in told.get("sample", [])[:samples]]
    note = "Loss on what the assistant says: in the samples, what is coloured."
    return _card("Supervised fine-tuning", note, facts, [chart], dataset, others, taught=taught)


def _of_conversations(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Turns, lengths and languages of what was learnt from."""
    facts = [
        (label, f"{told[key]['median']:,.0f} ({told[key]['p5']:,.0f} – {told[key]['p95']:,.0f})")
        for key, label in (
            ("turns", "turns, median (5 % – 95 %)"),
            ("tokens", "tokens"),
            ("taught_tokens", "learnt tokens"),
        )
        if told.get(key)
    ]
    if languages := told.get("languages"):
        total, most = sum(languages.values()), sorted(languages.items(), key=lambda item: -item[1])[:4]
        facts.append(("languages", ", ".join(f"{name} {number / total:.0%}" for name, number in most)))
    return facts


def _preferences(dataset: Dataset | None, samples: int) -> Card | None:
    if dataset is None:
        return None
    pairs = dataset.manifest.stats.get("pairs") or {}
    facts = [(name.replace("_", " "), f"{number:,.0f}") for name, number in pairs.items()]
    note = "The human's reply is preferred to the model's own."
    exchanges = learning.preference_samples(dataset, samples)
    return _card("Preference pairs", note, facts, [], dataset, exchanges=exchanges)


def _reward(dataset: Dataset | None, others: learning.Others) -> Card | None:
    figures = learning.read_json_if(dataset, "data/reward.json")
    if dataset is None or not figures:
        return None
    accuracy = figures["accuracy"]
    facts = [("held-out accuracy", _estimate(accuracy, "{:.1%}")), ("margin", f"{figures['margin']:.3f}")]
    longer = figures.get("length", {}).get("accuracy_of_choosing_the_longer")
    if longer is not None:
        facts.append(("always choosing the longer reply", f"{longer:.1%}"))
    if controlled := figures.get("length", {}).get("controlled_accuracy"):
        facts.append(("once length says nothing", _estimate(controlled, "{:.1%}")))
    if "calibration" in figures:
        facts.append(("its probabilities are off by", f"{figures['calibration']['expected_error']:.1%}"))
    keys = [("accuracy", "training pairs"), ("held_out_accuracy", "held-out pairs")]
    chart = learning.training_chart(dataset, keys, "accuracy", "Accuracy of the reward model by step", others)
    return _card("Reward model", "How often the preferred reply scores higher.", facts, [chart], dataset, others)


def _ppo(dataset: Dataset | None, others: learning.Others) -> Card | None:
    figures = learning.read_json_if(dataset, "data/reward_eval.json")
    if dataset is None or not figures:
        return None
    facts = [
        (f"reward, {name}", _estimate(figures["reward"][name], "{:+.3f}"))
        for name in ("sft", "ppo", "gain")
    ]  # fmt: skip
    facts.append(("KL to SFT", _estimate(figures["kl"], "{:.3f}")))
    reward = learning.training_chart(dataset, [("reward", "mean reward")], "reward", "Mean reward by round", others)
    curves = [("kl", "KL to the fine-tuned model")]
    kl = learning.training_chart(dataset, curves, "nats per reply", "KL by round", others)
    note = "Reinforcement learning from the reward model, held back by KL."
    return _card("PPO", note, [*facts, *_health(dataset)], [reward, kl], dataset, others)


def _dpo(dataset: Dataset | None, others: learning.Others) -> Card | None:
    figures = learning.read_json_if(dataset, "data/dpo.json")
    if dataset is None or not figures:
        return None
    facts = [
        ("held-out accuracy", _estimate(figures["accuracy"], "{:.1%}")),
        ("held-out margin", _estimate(figures["margin"], "{:+.3f}")),
    ]
    keys = [("margin", "training pairs"), ("held_out_margin", "held-out pairs")]
    chart = learning.training_chart(dataset, keys, "margin", "DPO margin by step", others)
    return _card("DPO", "How much further apart the policy puts the two replies.", facts, [chart], dataset, others)


def _grpo(dataset: Dataset | None, others: learning.Others) -> Card | None:
    figures = learning.read_json_if(dataset, "data/grpo.json")
    if dataset is None or not figures:
        return None
    facts = [(f"solved {when}", _estimate(figures[when]["solved"], "{:.1%}")) for when in ("before", "after")]
    facts.append(("gain", _estimate(figures["gain"], "{:+.1%}")))
    curves = [("solved", "sampled, training problems"), ("held_out_solved", "likeliest reply, held-out problems")]
    solved = learning.training_chart(dataset, curves, "share solved", "Share of problems solved by round", others)
    taught = [("teaching_groups", "groups that teach"), ("entropy", "entropy a token")]
    wide = learning.training_chart(dataset, taught, "share, nats", "Groups that teach something, and entropy", others)
    note = "Reinforcement learning from rewards that are checked: each reply against its group."
    return _card("GRPO", note, [*facts, *_health(dataset)], [solved, wide], dataset, others)


def _health(dataset: Dataset) -> list[tuple[str, str]]:
    """Means over the last rounds beside the range of a healthy run, with what it means to be outside."""
    lines = [line for line in learning.metrics_of(dataset) if "reward" in line][-LAST_ROUNDS:]
    found = []
    for name, healthy in HEALTHY.items():
        values = [line[name] for line in lines if isinstance(line.get(name), (int, float))]
        if values:
            mean = sum(values) / len(values)
            warned = "" if healthy.low <= mean <= healthy.high else f" – {healthy.beyond}"
            said = f"{mean:.3g} (healthy: {healthy.low:g} to {healthy.high:g}){warned}"
            found.append((f"{name.replace('_', ' ')}, last {len(lines)} rounds", said))
    return found


def _speech(dataset: Dataset) -> list[tuple[str, str]]:
    """What the model said to held-out prompts before and after, where the stage let it answer."""
    spoken = dataset.manifest.stats.get("generation")
    if not spoken:
        return []
    shown = {
        "finished": (f"replies that end within {spoken['limit']} tokens", "{:.0%}"),
        "reply_tokens": ("tokens of a reply", "{:.0f}"),
        "repeated": ("of them repeated", "{:.1%}"),
    }
    return [
        (name, " → ".join(pattern.format(spoken[when][key]["value"]) for when in ("before", "after")))
        for key, (name, pattern) in shown.items()
    ]


def _estimate(figure: Mapping[str, float], pattern: str) -> str:
    value, low, high = (pattern.format(figure[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
