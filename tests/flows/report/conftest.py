"""Datasets of a run, small and made up, for reports."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.report.documents import stage_fates
from flows.report.verdict import checks
from infra.stage import Counts
from infra.store.dataset import Dataset
from infra.store.files import describe_file
from pipeline.document import document_writer
from pipeline.ledger import Fate, ledger_writer
from tests.markup import EVIL
from tests.pipeline.corpus import document
from tests.support import adopt_dataset, write_dataset


def publish(root: Path, name: str, kept: list, fates: list[Fate], before: str | None = None) -> Dataset:
    """A document stage's dataset: one file of one source, with its ledger."""
    outputs = []
    for folder, writer, rows in (("data", document_writer, kept), ("ledger", ledger_writer, fates)):
        path = f"{folder}/web/0000.parquet"
        (root / path).parent.mkdir(parents=True)
        with writer(root / path) as target:
            for row in rows:
                target.write(row)
        outputs.append(describe_file(root, path))
    rules: dict[str, int] = {}
    for fate in fates:
        rules[fate["rule"]] = rules.get(fate["rule"], 0) + 1
    dataset = adopt_dataset(root, name, outputs, Counts(len(kept) + len(fates), len(kept), rules))
    if before is not None:
        record = {"role": before, "name": before, "fingerprint": "0" * 12, "digest": "0" * 64}
        manifest = json.loads((root / "manifest.json").read_text())
        (root / "manifest.json").write_text(json.dumps({**manifest, "inputs": [record]}))
        dataset = Dataset.open(str(root))
    return dataset


def drop(entry: dict[str, Any], stage: str, rule: str, **more: Any) -> Fate:
    identity = {"id": entry["id"], "url": entry["url"], "source": "web"}
    return {**identity, "stage": stage, "verdict": "dropped", "rule": rule, **more}  # type: ignore[return-value]


def with_stats(dataset: Dataset, stats: dict[str, Any]) -> Dataset:
    path = dataset.local("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "stats": stats}))
    return Dataset.open(dataset.root)


def estimate(value: float, low: float, high: float, n: int = 50) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps({"step": step, **row}) + "\n" for step, row in enumerate(rows, 1)).encode()


@pytest.fixture
def datasets(tmp_path) -> dict[str, Dataset]:
    """A run of every stage that has figures, small and made up, with hostile words wherever words can be."""
    entries = [document("web", number, f"Text number {number}. {EVIL}") for number in range(10)]
    found = {
        "ingest": publish(tmp_path / "ingest", "ingest", entries, []),
        "quality": publish(
            tmp_path / "quality", "quality", entries[:8],
            [drop(entry, "quality", "gopher_words_min", score=3.0, threshold=50.0) for entry in entries[8:]], "ingest",
        ),
        "dedup": publish(
            tmp_path / "dedup", "dedup", entries[:7],
            [drop(entries[7], "dedup", "near_duplicate", score=0.9, survivor_id=entries[0]["id"])], "quality",
        ),
    }  # fmt: skip
    lsh = {"bands": 14, "rows": 8, "measure": "jaccard", "threshold": 0.8, "curve": [
        {"similarity": 0.1 * step, "probability": 0.1 * step} for step in range(11)
    ]}  # fmt: skip
    verification = {"pairs": 3, "verified": 1, "rejected": 2, "undecided": 0}
    found["dedup"] = with_stats(found["dedup"], {"lsh": lsh, "verification": verification})

    def add(name: str, files: dict[str, Any], stats: dict[str, Any] | None = None) -> None:
        content = {path: data if isinstance(data, bytes) else json.dumps(data).encode() for path, data in files.items()}
        found[name] = with_stats(write_dataset(tmp_path / name, name, content), stats or {})

    source = {
        "documents": 5, "bytes": 500, "words": 100, "tokens": 150, "byte_tokens": 1, "lossy": 0, "hub_differs": 0,
        "tokens_per_word": 1.5, "bytes_per_token": 3.3, "byte_token_share": 0.01, "measured_on": "sample",
    }  # fmt: skip
    add("tokenizer", {"data/report.json": {"vocab_size": 500, "sources": {"web": source}}})
    add("shards", {"data/stats.json": {
        "total_tokens": 900, "tokens": {"web": 900}, "sequences": 4, "seq_len": 256, "packing_efficiency": 0.97,
        "unigram_entropy_nats": 5.0, "validation": {"web": {"documents": 1, "tokens": 30, "bytes": 100}},
        "mixture": {"web": {"available_tokens": 900, "rate": 1.0, "planned_share": 1.0, "share": 1.0}},
        "versions": [{"sequences": 4, "tokens": 900, "repetition": {"web": {"score": "quality", "passes": 1.0, "threshold": 0.2,
            "steps": [{"quantile": 0.0, "from": 0.01, "times": 0.0}, {"quantile": 0.5, "from": 0.625, "times": 2.0}]}}}],
    }})  # fmt: skip
    losses = lines(*({"loss": 6 - step * 0.05} for step in range(40)), {"bits_per_byte/web": 2.5})
    add("pretrain", {"data/metrics.jsonl": losses}, {
        "parameters": 1_000_000, "tokens": 9000, "ranks": 2, "device": "cpu", "loss_last": 4.0,
        "bits_per_byte": {"web": 2.5},
    })  # fmt: skip
    told = {"turns": {"p5": 2, "median": 4, "p95": 9}, "languages": {"en": 30, "de": 10},
            "sample": [{"id": "1", "runs": [[f"<|user|>{EVIL}", False], [f"fine {EVIL}<|end|>", True]]}]}  # fmt: skip
    add("sft", {"data/metrics.jsonl": lines({"loss": 3.0}, {"loss": 2.5, "validation_loss": 2.6}),
                "data/conversations.json": told},
        {"conversations": 40, "validation_loss": 2.6, "validation_loss_before": 3.4})  # fmt: skip
    accuracy = {"accuracy": estimate(0.8, 0.7, 0.9), "margin": 0.2, "mean": 0.0, "std": 1.0}
    add("reward", {"data/reward.json": accuracy, "data/metrics.jsonl": lines({"accuracy": 0.5}, {"accuracy": 0.8})})
    rewards = {"sft": estimate(0.1, 0, 0.2), "ppo": estimate(0.3, 0.2, 0.4), "gain": estimate(0.2, 0.1, 0.3)}
    add("ppo", {"data/reward_eval.json": {"reward": rewards, "kl": estimate(1.0, 0.5, 1.5)},
                "data/metrics.jsonl": lines({"reward": 0.1, "kl": 0.0}, {"reward": 0.3, "kl": 1.0})})  # fmt: skip
    add("dpo", {"data/dpo.json": {"accuracy": estimate(0.6, 0.4, 0.8), "margin": estimate(0.1, 0.0, 0.2)},
                "data/metrics.jsonl": lines({"margin": 0.0}, {"margin": 0.1})})  # fmt: skip
    row = {"task": EVIL, "metric": "bits_per_byte", **estimate(2.0, 1.9, 2.1)}
    nats = {"task": "heldout", "metric": "nats_per_token"}
    add("evaluate", {"data/evaluation.json": {
        "models": ["pretrain"],
        "tasks": [{"model": "pretrain", **row}, {"model": "pretrain", **nats, **estimate(4.0, 3.9, 4.1)},
                  {"model": "unigram", **nats, **estimate(5.0, 5.0, 5.0)}],
        "comparisons": [{"model": "sft - pretrain", **row}],
    }})  # fmt: skip
    return found


def verdicts(datasets: dict[str, Dataset]) -> dict[str, str]:
    stages = stage_fates({name: datasets[name] for name in datasets if name != "shards"}, samples=0)
    return {check.title: check.state for check in checks(datasets, stages)}
