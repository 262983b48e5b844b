"""``headwater bench preference``: does alignment learn what people prefer, beyond how long replies are?

Real votes: HH-RLHF's helpful-base and helpful-online pairs. A model is pretrained on books and web texts, then for each
seed fine-tuned on chosen chats, given a reward model, and aligned by DPO and by PPO: an ordinary recipe. Opening turns held
out are held out everywhere, fine-tuning included, and all that is said here is said of them:

    reward_accuracy   pairs that the reward model ranks as people did; ``_low`` and ``_high`` by bootstrap over pairs, the mean
                      over seeds taken of each, ``_least`` the worst seed
    length_accuracy   the same for the best of two rankings that know both lengths and nothing else: choosing always the longer
                      (or always the shorter), and a cubic of the log length; both fitted on the pairs to train on
    reward_over_length_low   lower end of the paired difference of the two
    controlled_accuracy      of the reward model once its scores are freed of length
    sft_accuracy, dpo_accuracy   pairs whose chosen reply is the likelier one by a token, before and after DPO, and
                      ``dpo_gain_low``, the lower end of their paired difference; ``_total``: by the whole reply
    ppo_gain, ppo_gain_low   mean reward over the fine-tuned model's, in standard deviations; the lowest end of all seeds
    ppo_kl            the highest mean KL of a reply, to be below ``KL_BOUND``; and tokens a reply before and after

A run at full size writes its section of ``docs/benchmarks.md``.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import yaml

import headwater
from alignment.forms import conversation_of, messages_to_json
from alignment.pairs import PairTokens, halves, pair_batch, tokenize_pairs
from alignment.preferences import read_pairs
from alignment.records import Reading, records
from alignment.replies import RewardModel, reply_log_probs
from alignment.reward_report import length_controlled
from alignment.template_chat import chat_tokenizer
from tests.benchmarks.page import table, write_section
from tests.support import shared_data
from training.hub_format import load_model, load_reward_model
from training.intervals import Interval, mean_interval

KL_BOUND = 20.0
"""Nats a reply: a policy further from the fine-tuned model is another model."""
HELD_OUT = 0.2
PAIRS = ("preference/hh-helpful-base.jsonl.gz", "preference/hh-helpful-online.jsonl.gz")
ROWS = 32


def run(seeds: int = 3, scale: float = 1.0, workspace: str = "") -> dict[str, Any]:
    """``scale`` shortens every training: 0.1 is a look at whether it works."""
    started = time.perf_counter()
    home = Path(workspace or mkdtemp(prefix="headwater-preference-"))
    recipe = write_recipe(home, scale)
    base = headwater.run(recipe, workspace=home / "workspace", stop_after="pretrain")
    clock = {"pretrain_s": round(time.perf_counter() - started, 1)}
    looks = []
    for seed in range(seeds):
        overrides = [f"{stage}.seed={seed}" for stage in ("sft", "preferences", "reward", "dpo", "ppo")]
        done = headwater.run(recipe, workspace=home / "workspace", overrides=overrides)
        looks.append(look_at(done))
        clock[f"seed_{seed}_s"] = round(time.perf_counter() - started - sum(clock.values()), 1)
    figures = figures_of(looks) | {"seconds": round(time.perf_counter() - started, 1), "seeds": seeds, "scale": scale}
    rows = [
        {"seed": seed, "sft": look.sft, "reward": look.reward, "dpo": look.dpo, "ppo": look.ppo}
        for seed, look in enumerate(looks)
    ]
    if (seeds, scale) == (3, 1.0) and not workspace:
        shown = [{"figure": name, "value": value} for name, value in (figures | clock).items()]
        write_section("preference", "headwater bench preference", [table(("figure", "value"), shown)])
    pretrained = {name: base["pretrain"].stats.get(name) for name in ("parameters", "tokens", "loss")}
    return {"figures": figures, "rows": rows, "pretrained": pretrained, "clock": clock}


def write_recipe(home: Path, scale: float) -> Path:
    """An ordinary recipe over the shared texts and votes."""
    home.mkdir(parents=True, exist_ok=True)
    pairs = [str(shared_data(name)) for name in PAIRS]
    stages = _base(scale) | _alignment(pairs, write_conversations(home / "chosen.jsonl", pairs), scale)
    path = home / "preference.yaml"
    path.write_text(yaml.safe_dump({"recipe": "preference", "stages": stages}, sort_keys=False))
    return path


def _steps(number: int, scale: float) -> int:
    return max(4, round(number * scale))


def _base(scale: float) -> dict[str, Any]:
    """From texts to the pretrained model."""
    jsonl = {"kind": "jsonl", "language": "en"}
    books = {"name": "books", "address": str(shared_data("text_books.jsonl.gz")), "profile": "books"}
    web = {"name": "web", "address": str(shared_data("web/gold.jsonl")), "profile": "none"}
    scored = {"name": "scored", "address": str(shared_data("quality/labels.jsonl")), "profile": "none"}
    return {
        "ingest": {"sources": [books | jsonl, web | jsonl, scored | jsonl]},
        "dedup": {},
        "redact": {},
        "tokenizer": {"vocab_size": 4096},
        "shards": {"seq_len": 512},
        "pretrain": {
            "model": {"hidden_size": 128, "heads": 2, "kv_heads": 2, "intermediate_size": 352, "max_position": 512},
            "steps": _steps(400, scale),
            "batch_sequences": 16,
            "eval_every": 300,
            "checkpoint_every": 200,
            "optimizer": {"name": "muon", "lr": 0.008, "schedule": {"warmup_steps": _steps(20, scale)}},
        },
    }


def _alignment(pairs: Sequence[str], conversations: Path, scale: float) -> dict[str, Any]:
    """From there to what PPO and DPO make of it."""
    length = {"batch_size": 32, "micro_batch": 8, "checkpoint_every": 500}
    chats = {"held_out_fraction": HELD_OUT}
    return {
        "sft": {
            "conversations": [str(conversations)],
            "row_length": 512,
            "epochs": 2 * scale,
            "lr": 0.001,
            **chats,
            **length,
        },
        "preferences": {"pairs": list(pairs), "max_pair_tokens": 320, **chats},
        # By folds of the 2,344 pairs to train on, the score alone ranks 61 % right; half an epoch of all weights after it, at
        # 1e-4, makes it 60 %. So there is one step, which moves nothing.
        "reward": length | {"linear_probe": 0.003, "centring": 0.01, "max_steps": 1, "lr": 1e-6},
        # Differences of whole replies' log-probabilities follow their lengths, which differ more than what is liked. Means a
        # token do not; with a fifth of the chosen reply's own loss and a rate of 8e-4, two of a hundred replies end.
        "dpo": length
        | {"loss": "simpo", "beta": 2.0, "margin": 1.0, "chosen_loss": 0.3, "lr": 6e-4, "epochs": max(0.1, scale)},
        # 48 rounds gain 2.2 deviations, at 40 nats a reply: twice the bound.
        "ppo": {
            "rounds": _steps(20, scale),
            "lr": 5e-4,
            "critic_lr": 1e-3,
            "critic_rounds": max(1, round(6 * scale)),
            "judge_as_ended": True,
            "kl_coefficient": 0.02,
            "max_reply_tokens": 64,
            "missing_end_penalty": 0.2,
            "evaluation_prompts": 256,
            "batch_size": 64,
            "validate_every": 10,
        },
    }


def write_conversations(path: Path, pairs: Sequence[str]) -> Path:
    """The chosen chats. Named by their opening turn, which is what pairs are held out by: what is held out there is here."""
    chosen: dict[str, dict[str, Any]] = {}
    for record in (record for file in pairs for record in records(file, Reading())):
        messages = conversation_of({"chosen": record.raw["chosen"], "rejected": ""}).messages
        opening = next((message.content for message in messages if message.role == "user"), "")
        whole = json.dumps({"id": opening, "messages": messages_to_json(messages)}, ensure_ascii=False)
        if opening and messages[-1].role == "assistant" and messages[-1].says:
            chosen.setdefault(whole, json.loads(whole))
    path.write_text("".join(line + "\n" for line in chosen))
    return path


@dataclass(frozen=True)
class Look:
    """One seed's models on the held-out pairs; arrays are ``[pairs]``, differences of chosen and rejected."""

    reward_difference: np.ndarray
    length_difference: np.ndarray
    lengths: np.ndarray
    before: np.ndarray
    after: np.ndarray
    """Per-token log-probability under the fine-tuned model and after DPO; ``_total`` of the whole reply."""
    before_total: np.ndarray
    after_total: np.ndarray
    sft: dict[str, Any]
    reward: dict[str, Any]
    dpo: dict[str, Any]
    ppo: dict[str, Any]


def look_at(done: headwater.Workspace) -> Look:
    folders = {name: done[name].dataset.local("data") for name in ("sft", "reward", "dpo", "ppo", "preferences")}
    tokenizer = chat_tokenizer(folders["sft"] / "model")
    path = folders["preferences"] / "pairs.parquet"
    training, held = (tokenize_pairs(tokenizer, read_pairs(path, split)) for split in ("train", "held_out"))
    lengths, seen = (np.array([[len(p.chosen), len(p.rejected)] for p in pairs]) for pairs in (held, training))
    decoder, score = load_reward_model(folders["reward"] / "model", torch.float32)
    judge = RewardModel(decoder, score).eval()
    rewards = of_replies(lambda batch: judge.judge(batch), held, tokenizer.pad_id)
    logs = {}
    for name in ("sft", "dpo"):
        model = load_model(folders[name] / "model", torch.float32).eval()
        logs[name] = of_replies(lambda batch, model=model: reply_log_probs(model, batch).sum(1), held, tokenizer.pad_id)

    def difference(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[:, 0] - values[:, 1])

    generation = {name: done[name].stats.get("generation") for name in ("sft", "dpo")}
    files = {name: json.loads((folders[name] / file).read_text()) for name, file in FILES.items()}
    return Look(
        difference(rewards),
        by_length(seen, lengths),
        lengths,
        difference(logs["sft"] / lengths),
        difference(logs["dpo"] / lengths),
        difference(logs["sft"]),
        difference(logs["dpo"]),
        {"generation": generation["sft"], "loss": done["sft"].stats.get("validation_loss")},
        files["reward"],
        files["dpo"],
        files["ppo"],
    )


FILES = {"reward": "reward.json", "dpo": "dpo.json", "ppo": "reward_eval.json"}


@torch.no_grad()
def of_replies(figure: Any, pairs: Sequence[PairTokens], pad_id: int) -> np.ndarray:
    """``[pairs, 2]``: a figure of the chosen and of the rejected replies."""
    found = np.zeros((len(pairs), 2))
    order = np.argsort([pair.length for pair in pairs], kind="stable")
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        chosen, rejected = halves(figure(pair_batch(pairs, part, pad_id, torch.device("cpu")).replies))
        found[part] = torch.stack([chosen, rejected], 1).double().numpy()
    return found


def by_length(seen: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Differences that lengths alone would give: of two rankings the one that does better on the pairs to train on."""
    centre, spread = np.log(seen).mean(), np.log(seen).std()

    def curve(lengths: np.ndarray) -> np.ndarray:
        z = (np.log(lengths) - centre) / spread
        return np.asarray(np.stack([z, z**2, z**3], -1))

    sides = [curve(lengths)[:, 0] - curve(lengths)[:, 1] for lengths in (seen, held)]
    weights = np.zeros(3)
    for _ in range(3000):  # logistic regression
        weights += 0.2 * (sides[0] / (1 + np.exp(sides[0] @ weights))[:, None]).mean(0)
    cubic = [side @ weights for side in sides]
    longer = [(lengths[:, 0] - lengths[:, 1]).astype(float) for lengths in (seen, held)]
    sign = 1.0 if credit(longer[0]).mean() >= 0.5 else -1.0
    rankings = [cubic, [sign * side for side in longer]]
    return np.asarray(max(rankings, key=lambda pair: float(credit(pair[0]).mean()))[1])


def credit(difference: np.ndarray) -> np.ndarray:
    """1 where the chosen reply is ahead, half where neither is."""
    return np.where(difference == 0, 0.5, (difference > 0).astype(float))


def figures_of(looks: Sequence[Look]) -> dict[str, float | None]:
    """Means over seeds, with intervals over pairs: a pair's credit is its mean over the seeds."""

    def mean(name: str, change: Any = credit) -> np.ndarray:
        return np.asarray(np.mean([change(getattr(look, name)) for look in looks], axis=0))

    reward, length = mean("reward_difference"), mean("length_difference")
    before, after = mean("before"), mean("after")
    gains = [look.ppo["reward"]["gain"] for look in looks]
    controlled = [length_controlled(look.reward_difference, look.lengths) for look in looks]
    return {
        "held_out_pairs": len(reward),
        **_named("reward_accuracy", mean_interval(reward, 0)),
        "reward_accuracy_least": min(float(credit(look.reward_difference).mean()) for look in looks),
        **_named("length_accuracy", mean_interval(length, 0)),
        **_named("reward_over_length", mean_interval(reward - length, 0)),
        "controlled_accuracy": float(np.mean([each["controlled_accuracy"]["value"] for each in controlled])),
        "reward_explained_by_length": float(np.mean([each["share_explained_by_length"] for each in controlled])),
        **_named("sft_accuracy", mean_interval(before, 0)),
        **_named("dpo_accuracy", mean_interval(after, 0)),
        **_named("dpo_gain", mean_interval(after - before, 0)),
        "sft_accuracy_total": float(mean("before_total").mean()),
        "dpo_accuracy_total": float(mean("after_total").mean()),
        "dpo_implied_accuracy": float(np.mean([look.dpo["accuracy"]["value"] for look in looks])),
        "ppo_gain": float(np.mean([gain["value"] for gain in gains])),
        "ppo_gain_low": min(gain["low"] for gain in gains),
        **_of_ppo([look.ppo for look in looks]),
    }


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _of_ppo(found: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """KL and lengths of replies, where PPO's figures have them."""

    def most(*path: str) -> float | None:
        values = []
        for figures in found:
            value: Any = figures
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            value = value.get("value") if isinstance(value, dict) else value
            values += [float(value)] if isinstance(value, (int, float)) else []
        return max(values) if values else None

    return {
        "ppo_kl": most("kl"),
        "ppo_kl_bound": KL_BOUND,
        "ppo_reply_tokens_before": most("reply_tokens", "sft"),
        "ppo_reply_tokens_after": most("reply_tokens", "ppo"),
    }
