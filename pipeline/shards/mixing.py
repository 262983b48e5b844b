"""How much of each source goes into training: from weights, caps and what there is, to a rate for each source.

A rate of 0.25 takes a quarter of a source's documents; 2.5 takes every one twice and half of them a third time.
Without weights every source is taken once, so the mixture is the corpus itself. With weights the proportions are kept
exactly (by expectation): the source that is scarcest for its weight bounds the total, unless it may be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from infra.config import Config
from infra.errors import ConfigError


class SourceWeight(Config):
    """One source's part in the mixture."""

    source: str = Field(min_length=1)
    """Name of the source, as in the recipe."""
    weight: float = Field(1.0, ge=0)
    """Its share of the training tokens, relative to the other weights."""
    max_epochs: float = Field(1.0, gt=0, le=64)
    """How often a document may be repeated at most."""
    max_tokens: int | None = Field(None, ge=1)
    """Upper limit of its tokens, repetitions included."""


@dataclass(frozen=True)
class SourcePlan:
    """What becomes of one source. ``share`` is its part of the planned tokens."""

    available: int
    rate: float
    tokens: float
    share: float


def plan_mixture(
    available: Mapping[str, int], weights: Sequence[SourceWeight], total_tokens: int | None
) -> dict[str, SourcePlan]:
    """The rate of each source, given its training tokens. Raises ConfigError for names that do not exist."""
    _check_names(available, weights)
    if weights:
        wanted = _by_weight(available, weights, total_tokens)
    else:
        whole = sum(available.values())
        part = min(1.0, total_tokens / whole) if total_tokens and whole else 1.0
        wanted = {source: tokens * part for source, tokens in available.items()}
    total = sum(wanted.values())
    return {
        source: SourcePlan(
            tokens,
            wanted[source] / tokens if tokens else 0.0,
            wanted[source],
            wanted[source] / total if total else 0.0,
        )
        for source, tokens in sorted(available.items())
    }


def _by_weight(
    available: Mapping[str, int], weights: Sequence[SourceWeight], total_tokens: int | None
) -> dict[str, float]:
    """A source without documents cannot bound the rest: its weight is shared out among the others."""
    present = {entry.source: entry for entry in weights if entry.weight > 0 and available[entry.source] > 0}
    whole = sum(entry.weight for entry in present.values())
    if not present:
        raise ConfigError(
            "no source with a weight has any documents left",
            where="shards.mixture",
            remedy="Give a weight to a source that has documents, or leave the mixture empty.",
        )
    limits = {
        source: min(entry.max_epochs * available[source], entry.max_tokens or float("inf"))
        for source, entry in present.items()
    }
    total = min(limits[source] * whole / entry.weight for source, entry in present.items())
    total = min(total, total_tokens or total)
    return {
        source: total * present[source].weight / whole if source in present else 0.0 for source in sorted(available)
    }


def _check_names(available: Mapping[str, int], weights: Sequence[SourceWeight]) -> None:
    names = [entry.source for entry in weights]
    for name in names:
        if name not in available:
            raise ConfigError(
                f"the mixture names the source {name!r}, but there are {', '.join(sorted(available)) or 'none'}",
                where="shards.mixture",
                remedy="Use the names of the recipe's sources.",
            )
        if names.count(name) > 1:
            raise ConfigError(f"the mixture names the source {name!r} twice", where="shards.mixture")
