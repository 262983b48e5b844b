"""Figures of a version that was appended to another: the earlier one's and those of its own rows together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infra.store.cache import local_file


def appended(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` alone where nothing was appended to. ``versions`` tells the parts apart, oldest first."""
    versions = [{"sequences": own["sequences"], "tokens": own["total_tokens"]}]
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
