"""Sentences that a dataset carries in its manifest, about what is missing from it or from what it was built on.

A stage adds its own (``StageContext.warnings``, ``infra.job.finish``); these are the ones that the runner knows.
"""

from collections.abc import Mapping, Sequence

from infra.store.dataset import Dataset
from infra.store.manifest import FailedUnit, UnitsRecord

SHOWN = 5
BUILT_ON = "built on "


def warnings_of_loss(units: UnitsRecord) -> list[str]:
    """That units are missing, by step."""
    steps = dict.fromkeys(failure.step for failure in units.failed)
    set_by = f"; accepted by execution.max_failed_fraction={units.tolerated:g}" if units.tolerated else ""
    return [
        f"incomplete: {describe_loss([failure for failure in units.failed if failure.step == step], units.total)}{set_by}"
        for step in steps
    ]


def warnings_of_inputs(inputs: Mapping[str, Dataset]) -> list[str]:
    """That an input is incomplete, or was built on one that is."""
    found: dict[str, None] = {}
    for _, dataset in sorted(inputs.items()):
        manifest = dataset.manifest
        if not manifest.complete:
            loss = describe_loss(manifest.units.failed, manifest.units.total)
            found[f"{BUILT_ON}{dataset.name}/{manifest.fingerprint}, which is incomplete: {loss}"] = None
        found |= dict.fromkeys(sentence for sentence in manifest.warnings if sentence.startswith(BUILT_ON))
    return list(found)


def describe_loss(failed: Sequence[FailedUnit], total: int) -> str:
    """``1 of 120 units failed; missing is part-077.jsonl (1,834 bytes, records unknown)``."""
    units = f"{len(failed):,} of {total:,} units failed"
    files = list(dict.fromkeys(file for failure in failed for file in failure.files))
    if not files:
        return f"{units} ({_extent(failed)})"
    shown = ", ".join(files[:SHOWN]) + (f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else "")
    return f"{units}; missing is {shown} ({_extent(failed)})"


def _extent(failed: Sequence[FailedUnit]) -> str:
    sizes = [failure.bytes for failure in failed if failure.bytes is not None]
    records = [failure.records for failure in failed if failure.records is not None]
    known = f"{sum(sizes):,} bytes" if len(sizes) == len(failed) else "size unknown"
    held = f"{sum(records):,} records" if len(records) == len(failed) else "records unknown"
    return f"{known}, {held}"
