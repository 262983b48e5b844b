"""What came of each source: refused where it gave nothing, said where its archives are damaged.

A source that gives not one document is a mistake even beside others that give many: a column map, an address, a kind. Damage
is different: half an archive is what there is, but a dataset made of it must say so wherever it is used.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import InputError
from infra.stage import Receipt, StageContext
from pipeline.document import read_batches
from pipeline.profiles import source_of
from pipeline.sources.contract import DAMAGE, EMPTY_FILE, SourceConfig

DAMAGED = "damaged"
"""The metric of a unit: ledger rows that tell of damage."""
SHOWN = 10
PLACE = re.compile(r"(?P<archive>.+?)(?: bytes \d+\+(?P<length>\d+)| after page \d+)(?:: |$)", re.S)
CUT = re.compile(r"truncated|cut")


@dataclass
class ArchiveDamage:
    """What was lost of one archive."""

    read: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    places: dict[str, int] = field(default_factory=dict)


def check_sources(context: StageContext, sources: Sequence[SourceConfig], counts: Mapping[str, Any]) -> None:
    """Raises InputError for a source without a document; sources of which only damage is left are told by warnings."""
    some = any(found["kept"] for found in counts.values())
    for source in sources:
        found = counts.get(source.name)
        if found is None or found["kept"] or source.allow_empty:
            continue  # without a unit that was read, the runner tells what is lost
        receipts = [
            receipt
            for receipt in context.receipts["read"]
            if source.name in {source_of(path) for path in _ledgers(receipt)}
        ]
        damaged = sum(int(receipt.metrics.get(DAMAGED, 0)) for receipt in receipts)
        if not found["incoming"]:
            raise _empty(source, "there was no record in it that could be one")
        if damaged == found["incoming"] and some:
            continue
        rule, number, detail = _worst(context, receipts)
        said = f" ({detail[:160]})" if detail else ""
        raise _empty(source, f"of {found['incoming']:,} records {number:,} went by {rule!r}{said}")


def _empty(source: SourceConfig, why: str) -> InputError:
    return InputError(
        f"source {source.name!r} gave no document: {why}",
        where=source.address,
        remedy="Correct the source, or set allow_empty: true on it.",
    )


def damage_sentences(context: StageContext) -> list[str]:
    """One sentence for each damaged archive: what was read, and what is lost."""
    found: dict[tuple[str, str], ArchiveDamage] = {}
    for receipt in context.receipts["read"]:
        if receipt.metrics.get(DAMAGED):
            _add(context, receipt, found)
    sentences = [_sentence(source, archive, damage) for (source, archive), damage in sorted(found.items())]
    more = len(sentences) - SHOWN
    return sentences if more <= 0 else [*sentences[:SHOWN], f"{more:,} more archives are damaged: see the ledger"]


def _add(context: StageContext, receipt: Receipt, found: dict[tuple[str, str], ArchiveDamage]) -> None:
    (source,) = {source_of(path) for path in _ledgers(receipt)}
    here: set[str] = set()
    for rule, detail in _rows(context, receipt):
        if rule in DAMAGE:
            place = PLACE.match(detail)
            archive = place["archive"] if place else detail
            damage = found.setdefault((source, archive), ArchiveDamage())
            damage.rules[rule] += 1
            if place:
                damage.places[place[0]] = int(place["length"] or 0)
            here.add(archive)
    for archive in here:
        found[source, archive].read += receipt.counts.incoming - int(receipt.metrics[DAMAGED])


def _sentence(source: str, archive: str, damage: ArchiveDamage) -> str:
    if set(damage.rules) == {EMPTY_FILE}:
        return f"{source}: {archive} is empty"
    state = "is cut short" if any(CUT.search(rule) for rule in damage.rules) else "is damaged"
    size = sum(damage.places.values())
    bytes_lost = f" with {size:,} bytes" if size else ""
    number = sum(damage.rules.values())
    pieces = "1 piece is" if number == 1 else f"{number:,} pieces are"
    return f"{source}: {archive} {state}: {damage.read:,} records were read, {pieces} lost{bytes_lost}"


def _worst(context: StageContext, receipts: Sequence[Receipt]) -> tuple[str, int, str]:
    rules: Counter[str] = Counter()
    details: dict[str, str] = {}
    for receipt in receipts:
        for rule, detail in _rows(context, receipt):
            rules[rule] += 1
            details.setdefault(rule, detail)
    rule, number = max(rules.items(), key=lambda item: (item[1], item[0]))
    return rule, number, details[rule]


def _rows(context: StageContext, receipt: Receipt) -> Iterator[tuple[str, str]]:
    for path in _ledgers(receipt):
        for batch in read_batches(f"{context.dataset_root}/{path}", ["rule", "detail"]):
            for row in batch.to_pylist():
                yield row["rule"], row["detail"] or ""


def _ledgers(receipt: Receipt) -> list[str]:
    return [output.path for output in receipt.outputs if output.path.startswith("ledger/")]
