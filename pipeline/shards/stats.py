"""The figures of a shard set; of a version that was appended to another, the earlier one's and its own together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infra.stage import Receipt
from infra.store.cache import local_file
from pipeline.shards.holdout import sum_metric
from pipeline.shards.mixing import SourcePlan
from pipeline.shards.repetition import Repetition


def mixture_stats(
    phases: Sequence[Mapping[str, SourcePlan]], tokens: Mapping[str, float], repetition: Sequence[Repetition]
) -> dict[str, Any]:
    """Over all phases: what was planned of each source and what became of it; ``rate`` is how often its tokens are seen."""
    planned = sum(entry.tokens for plan in phases for entry in plan.values())
    # One pass of a curve is so many over the source.
    passes = {entry.source: entry.mean for entry in repetition}
    return {
        source: {
            "available_tokens": round(entry.available / passes[source]) if source in passes else entry.available,
            "rate": entry.rate * passes.get(source, 1),
            "planned_share": sum(plan[source].tokens for plan in phases) / planned,
            "share": tokens.get(source, 0) / sum(tokens.values()),
        }
        for source, entry in phases[-1].items()
    }


def phase_stats(packed: Sequence[Receipt], phase: int) -> dict[str, Any]:
    """Rows of one phase, and its tokens by source."""
    tokens = {
        name.removeprefix(f"{phase}/"): count
        for name, count in sum_metric(packed, "phase_tokens").items()
        if name.startswith(f"{phase}/")
    }
    return {"sequences": sum_metric(packed, "phase_sequences").get(str(phase), 0), "tokens": tokens}


def appended(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` alone where nothing was appended to. ``versions`` tells the parts apart, oldest first, each with its curves."""
    own = dict(own)
    curves = {"repetition": own.pop("repetition")} if "repetition" in own else {}
    versions = [{"sequences": own["sequences"], "tokens": own["total_tokens"], **curves}]
    if not before:
        return {**own, "versions": versions}
    tokens = _added(before["tokens"], own["tokens"])
    total = before["total_tokens"] + own["total_tokens"]
    sequences = before["sequences"] + own["sequences"]
    return {
        **own,
        "tokens": tokens,
        "total_tokens": total,
        "sequences": sequences,
        "packing_efficiency": total / (sequences * (own["seq_len"] + 1)),
        "mixture": {
            source: _mixed(source, before, own, tokens, total)
            for source in sorted({*before["mixture"], *own["mixture"]})
        },
        "phases": [{"sequences": sequences, "tokens": tokens}],
        "validation": {
            source: _added(before["validation"].get(source, {}), own["validation"].get(source, {}))
            for source in sorted({*before["validation"], *own["validation"]})
        },
        "versions": [*before["versions"], *versions],
    }


def _added(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}


def _mixed(
    source: str, before: Mapping[str, Any], own: Mapping[str, Any], tokens: Mapping[str, int], total: int
) -> dict[str, float]:
    parts = [(part["mixture"][source], part["total_tokens"]) for part in (before, own) if source in part["mixture"]]
    available = sum(entry["available_tokens"] for entry, _ in parts)
    taken = tokens.get(source, 0)
    return {
        "available_tokens": available,
        "rate": taken / available if available else 0.0,
        "planned_share": sum(entry["planned_share"] * weight for entry, weight in parts) / total,
        "share": taken / total,
    }


def unigram_counts(files: Sequence[str]) -> np.ndarray:
    """How often each token stands in the training rows."""
    return np.asarray(np.stack([np.load(local_file(path)) for path in files]).sum(axis=0, dtype=np.int64))


def entropy(counts: np.ndarray) -> float:
    """Entropy of single tokens in nats: the loss of a model that knows frequencies and nothing else."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
