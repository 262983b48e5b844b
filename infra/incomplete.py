"""Datasets from which units are missing, beside the complete ones that they stand in for.

A complete dataset lies under the fingerprint of its payload. If units failed for good and the user tolerates it, what
there is is published under another one: its payload names the lost units and the digest of the rest. So the place of the
complete dataset stays free, the next run has something to do, and neither is ever overwritten.

    datasets/<name>/<fingerprint>/           no manifest yet: what the finished units wrote
    work/<name>/<fingerprint>/               plan and journal stay, so that only the missing units are tried again
    work/<name>/<fingerprint>/incomplete.json   {"fingerprint": …} of what was published meanwhile
"""

from collections.abc import Mapping
from typing import Any

from infra.fingerprint import short_fingerprint
from infra.store.dataset import Dataset
from infra.store.files import exists, read_json, write_json
from infra.store.manifest import FailedUnit, Manifest
from infra.store.store import Store

LOST = "lost"
POINTER = "incomplete.json"


def incomplete_payload(payload: Mapping[str, Any], failed: list[FailedUnit], digest: str) -> dict[str, Any]:
    """What identifies a dataset from which units are missing."""
    return {**payload, LOST: {"units": sorted(f"{unit.step}/{unit.unit}" for unit in failed), "digest": digest}}


def complete_fingerprint(manifest: Manifest) -> str:
    """The fingerprint under which the dataset will be complete: its own, unless units are missing."""
    return short_fingerprint({key: value for key, value in manifest.payload.items() if key != LOST})


def point_at_incomplete(work: str, fingerprint: str) -> None:
    """``work`` is the folder of the work that would complete it."""
    write_json(f"{work}/{POINTER}", {"fingerprint": fingerprint})


def incomplete_version(store: Store, name: str, fingerprint: str, label: str) -> Dataset | None:
    """What stands in for the complete dataset with this fingerprint, as long as that is not published."""
    pointer = f"{store.work_url(name, fingerprint)}/{POINTER}"
    if exists(pointer):
        found = store.find(name, read_json(pointer)["fingerprint"])
        if found is not None:
            return found
    labelled = store.get_ref(name, label)  # where its work was collected, or a backup was restored
    if labelled is not None and LOST in labelled.manifest.payload:
        return labelled if complete_fingerprint(labelled.manifest) == fingerprint else None
    return None
