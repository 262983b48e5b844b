"""What a reader must know before any figure: files that are missing, sources of which next to nothing is left, and what the
stages themselves warn of."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flows.provenance.funnel import funnel_by_source
from flows.stages import in_order
from infra.store.dataset import Dataset
from infra.warnings import BUILT_ON

INCOMPLETE = "incomplete: "
"""How the runner's own sentences about lost units begin."""
EMPTIED_DOCUMENTS, EMPTIED_SHARE = 100, 0.02
"""A source of so many documents of which a stage keeps less than this share is told: a rule, a language or near duplicates that
share a template have taken all of it, which the sum of many sources does not show."""
FILES = 20
"""Lost units that are listed one by one."""


@dataclass(frozen=True)
class LostUnit:
    """A unit that failed for good. ``bytes`` and ``records`` are None where they are not known."""

    files: str
    bytes: int | None
    records: int | None
    error: str


@dataclass(frozen=True)
class MissingUnits:
    """What a dataset lacks."""

    stage: str
    fingerprint: str
    units: int
    of: int
    bytes: int | None
    records: int | None
    lost: tuple[LostUnit, ...]
    more: int
    accepted: str = ""
    """The setting by which its user took it without them."""


def missing(datasets: Mapping[str, Dataset]) -> list[MissingUnits]:
    """Every dataset that was published without some of its units, in path order."""
    return [found for dataset in in_order(datasets.values()) if (found := _missing(dataset)) is not None]


def warnings(datasets: Mapping[str, Dataset]) -> list[tuple[str, str]]:
    """(stage, sentence), in path order. What several datasets carry on from the same input is said once, and what
    ``missing`` tells of these datasets not at all."""
    found: dict[str, str] = {}
    lacking = [f"{BUILT_ON}{each.stage}/{each.fingerprint}" for each in missing(datasets)]
    for dataset in in_order(datasets.values()):
        for sentence in dataset.manifest.warnings:
            if not sentence.startswith((INCOMPLETE, *lacking)):
                found.setdefault(sentence, dataset.name)
    return [(stage, sentence) for sentence, stage in found.items()] + emptied_sources(datasets.values())


def emptied_sources(datasets: Iterable[Dataset]) -> list[tuple[str, str]]:
    """(stage, sentence) for each source of which a stage kept next to nothing."""
    return [
        (
            row.stage,
            f"keeps {row.kept:,} of the {row.incoming:,} documents of {row.group}; headwater documents --stage {row.stage} "
            f"--source {row.group} --fate dropped shows them and the rules",
        )
        for row in funnel_by_source(datasets)
        if row.incoming >= EMPTIED_DOCUMENTS and row.kept < EMPTIED_SHARE * row.incoming
    ]


def notice_lines(datasets: Iterable[Dataset]) -> Iterator[str]:
    """The same for a terminal, a line each."""
    by_name = {dataset.name: dataset for dataset in datasets}
    for each in missing(by_name):
        yield f"incomplete: {each.stage}/{each.fingerprint} lacks {extent(each)}; the next run tries them again" + (
            f"; accepted by {each.accepted}" if each.accepted else ""
        )
        for lost in each.lost:
            yield f"  {lost.files} ({_extent(lost)}): {lost.error}"
        if each.more:
            yield f"  and {each.more:,} more"
    for stage, sentence in warnings(by_name):
        yield f"warning: {stage}: {sentence}"


def extent(lost: MissingUnits) -> str:
    """``1 of 120 units, 1,834 bytes, records unknown``."""
    return f"{lost.units:,} of {lost.of:,} units, {_extent(lost)}"


def _extent(lost: MissingUnits | LostUnit) -> str:
    size = f"{lost.bytes:,} bytes" if lost.bytes is not None else "size unknown"
    held = f"{lost.records:,} records" if lost.records is not None else "records unknown"
    return f"{size}, {held}"


def refused_steps(dataset: Dataset) -> int:
    """Steps of a training whose update was skipped."""
    return int(dataset.manifest.stats.get("held_steps") or 0)


def _missing(dataset: Dataset) -> MissingUnits | None:
    units = dataset.manifest.units
    if not units.failed:
        return None
    sizes, records = [unit.bytes for unit in units.failed], [unit.records for unit in units.failed]
    lost = [
        LostUnit(", ".join(unit.files) or f"unit {unit.unit}", unit.bytes, unit.records, unit.error)
        for unit in units.failed[:FILES]
    ]
    return MissingUnits(
        dataset.name,
        dataset.manifest.fingerprint,
        len(units.failed),
        units.total,
        _sum(sizes),
        _sum(records),
        tuple(lost),
        max(0, len(units.failed) - FILES),
        f"execution.max_failed_fraction={units.tolerated:g}" if units.tolerated else "",
    )


def _sum(values: list[int | None]) -> int | None:
    """None if one of them is not known: a part of the sum would pass for all of it."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
