"""How drop rates moved: this dataset against an earlier one of the same stage.

A crawl whose pages suddenly fail a rule twice as often is a changed crawl, a changed extractor or a defect, and none of
them shows in a total. Stages that drop documents keep their counts by source in their manifest's ``stats``
(``by_source``); ``drop_rate_changes`` compares two of those.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from infra.stage import Counts, Receipt
from pipeline.profiles import source_of

BY_SOURCE = "by_source"
FEWEST_DOCUMENTS = 100
"""Rates of fewer documents than this move by chance, and must move further to be told."""
CHANCE = 4.0
"""How much further, in standard errors."""


@dataclass(frozen=True)
class Change:
    """The share of a source's documents that a rule dropped, before and now."""

    source: str
    rule: str
    before: float
    now: float

    @property
    def difference(self) -> float:
        return self.now - self.before

    def __str__(self) -> str:
        return f"{self.source}: {self.rule} drops {self.now:.1%} of the documents, {self.before:.1%} before"


def counts_by_source(receipts: Iterable[Receipt]) -> dict[str, dict[str, Any]]:
    """What became of each source's documents, from the receipts of units that wrote ``data/<source>/…``."""
    totals: dict[str, Counts] = {}
    for receipt in receipts:
        sources = {source_of(output.path) for output in receipt.outputs if output.path.startswith("data/")}
        for source in sources:
            totals[source] = totals.get(source, Counts()) + receipt.counts
    return {
        source: {
            "incoming": counts.incoming,
            "kept": counts.kept,
            "dropped": dict(counts.dropped),
            "failed": counts.failed,
        }
        for source, counts in sorted(totals.items())
    }


def drop_rate_changes(before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float = 0.05) -> list[Change]:
    """Rules whose drop rate moved by more than ``tolerance`` (of all documents of a source), largest first.

    ``before`` and ``now`` are the ``stats`` of two manifests. Sources that are in one of them only are left out, and what
    may be chance in a source of few documents.
    """
    old, new = before.get(BY_SOURCE, {}), now.get(BY_SOURCE, {})
    changes = []
    for source in sorted(old.keys() & new.keys()):
        sizes = old[source]["incoming"], new[source]["incoming"]
        if not all(sizes):
            continue
        for rule in sorted(old[source]["dropped"].keys() | new[source]["dropped"].keys()):
            change = Change(source, rule, _rate(old[source], rule), _rate(new[source], rule))
            if abs(change.difference) > tolerance and not _may_be_chance(change, *sizes):
                changes.append(change)
    return sorted(changes, key=lambda change: (-abs(change.difference), change.source, change.rule))


def _may_be_chance(change: Change, old: int, new: int) -> bool:
    if min(old, new) >= FEWEST_DOCUMENTS:
        return False
    rate = (change.before * old + change.now * new) / (old + new)
    return abs(change.difference) <= CHANCE * math.sqrt(rate * (1 - rate) * (1 / old + 1 / new))


def _rate(counts: Mapping[str, Any], rule: str) -> float:
    return float(counts["dropped"].get(rule, 0) / counts["incoming"])
