"""How much of each source goes into training: from weights, caps and what there is, to a rate for each source.

A rate of 0.25 takes a quarter of a source's documents; 2.5 takes every one twice and half of them a third time.
Without weights every source is taken once, so the mixture is the corpus itself. With weights the proportions are kept
exactly (by expectation): the source that is scarcest for its weight bounds the total, unless it may be repeated.

A curriculum is several mixtures, one after the other. Each takes up a source where the one before left it: what the
first phase took at rates 0 to 0.3 the second continues from 0.3 on, so nothing is repeated before everything was seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from infra.config import Config
from infra.errors import ConfigError
from pipeline.shards.repetition import Repetition


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


class Phase(Config):
    """One mixture of a curriculum."""

    tokens: int | None = Field(None, ge=1)
    """Training tokens after which the next phase begins; the last one may leave it open and take what there is."""
    mixture: tuple[SourceWeight, ...] = Field(min_length=1)
    """Weight of each source; ``max_epochs`` and ``max_tokens`` count from the beginning of the first phase."""


@dataclass(frozen=True)
class SourcePlan:
    """What becomes of one source. ``share`` is its part of the planned tokens; a phase takes it from ``since`` on.

    ``available`` are the tokens of one pass: by a curve, repetitions included.
    """

    available: float
    rate: float
    tokens: float
    share: float
    since: float = 0.0


def plan_mixture(
    available: Mapping[str, float], weights: Sequence[SourceWeight], total_tokens: int | None
) -> dict[str, SourcePlan]:
    """The rate of each source, given its training tokens. Raises ConfigError for names that do not exist."""
    check_names(available, weights)
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


def plan_phases(available: Mapping[str, float], phases: Sequence[Phase]) -> list[dict[str, SourcePlan]]:
    """The rates of each phase. Raises ConfigError where a phase asks for more than its sources still have."""
    plans = []
    used = dict.fromkeys(available, 0.0)
    for number, phase in enumerate(phases, start=1):
        check_names(available, phase.mixture)
        wanted = _by_weight(available, phase.mixture, phase.tokens, used)
        total = sum(wanted.values())
        if total < (phase.tokens or 1) * (1 - 1e-9):
            raise ConfigError(
                f"phase {number} asks for {phase.tokens or 'some'} tokens and its sources have {total:,.0f} left "
                "in the proportions of its weights",
                where="shards.phases",
                remedy="Lower its tokens, or raise max_epochs of the scarcest source.",
            )
        plan = {}
        for source, tokens in sorted(available.items()):
            since = used[source] / tokens if tokens else 0.0
            used[source] += wanted[source]
            rate = used[source] / tokens if tokens else 0.0
            plan[source] = SourcePlan(tokens, rate, wanted[source], wanted[source] / total, since)
        plans.append(plan)
    return plans


def _by_weight(
    available: Mapping[str, float],
    weights: Sequence[SourceWeight],
    total_tokens: int | None,
    used: Mapping[str, float] | None = None,
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
        source: max(
            0.0,
            min(entry.max_epochs * available[source], entry.max_tokens or float("inf")) - (used or {}).get(source, 0.0),
        )
        for source, entry in present.items()
    }
    total = min(limits[source] * whole / entry.weight for source, entry in present.items())
    total = min(total, total_tokens or total)
    return {
        source: total * present[source].weight / whole if source in present else 0.0 for source in sorted(available)
    }


def check_names(
    available: Iterable[str], entries: Sequence[SourceWeight | Repetition], where: str = "shards.mixture"
) -> None:
    names = [entry.source for entry in entries]
    for name in names:
        if name not in available:
            raise ConfigError(
                f"{where} names the source {name!r}, but there are {', '.join(sorted(available)) or 'none'}",
                where=where,
                remedy="Use the names of the recipe's sources.",
            )
        if names.count(name) > 1:
            raise ConfigError(f"{where} names the source {name!r} twice", where=where)
