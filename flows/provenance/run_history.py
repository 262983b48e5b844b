"""Which datasets a run made or used, and which run of the recipe came before: from the records in ``runs/``.

The names of runs hold their time (``<label>-<date>-<time>-<random>``), so the newest are found by reading as few records
as possible. The label is the recipe's name, or the crawl of a series; which recipe it was stands in the run's plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from infra.errors import HeadwaterError
from infra.runs import RUN_NAME, run_events
from infra.store.dataset import Dataset
from infra.store.files import child_names, exists, read_json
from infra.store.store import Store

LOOKED_AT = 50
"""Runs that are looked through for the one before."""


@dataclass(frozen=True)
class OtherRun:
    """Another run, shown beside the one that the report is about."""

    name: str
    datasets: Mapping[str, Dataset]


def store_of(datasets: Mapping[str, Dataset]) -> Store | None:
    """The workspace that datasets lie in; None where they lie in no workspace."""
    for dataset in datasets.values():
        address, separator, _ = dataset.root.rpartition(f"/datasets/{dataset.name}/")
        if separator:
            return Store.at(address)
    return None


def run_before(store: Store, datasets: Mapping[str, Dataset]) -> OtherRun | None:
    """The last completed run of the same recipe before the one that made the newest of these datasets.

    One that took the same stages is preferred to a later one that took some of them.
    """
    if not datasets:
        return None
    made = max((dataset.manifest.provenance for dataset in datasets.values()), key=lambda made: made.ended)
    recipe = _recipe_of(store, made.run)
    part: OtherRun | None = None
    for name in _runs_before(store, made.run):
        if _recipe_of(store, name) != recipe or not _completed(store, name):
            continue
        found = {stage: each for stage, each in datasets_of_run(store, name).items() if stage in datasets}
        if datasets.keys() - {"report"} <= found.keys():
            return OtherRun(name, found)
        if found and part is None:
            part = OtherRun(name, found)
    return part


def datasets_of_run(store: Store, run: str) -> dict[str, Dataset]:
    """What a run published or found published, by stage; what is no longer in the store is left out."""
    root = store.run_url(run)
    fingerprints: dict[str, str] = {}
    plan = f"{root}/plan.json"
    for entry in read_json(plan)["stages"] if exists(plan) else ():
        if entry["action"] == "SKIP" and entry["fingerprint"]:
            fingerprints[entry["stage"]] = entry["fingerprint"]
    for event in run_events(root):
        if event["type"] in ("stage_published", "stage_skipped") and event.get("fingerprint"):
            fingerprints[event["stage"]] = event["fingerprint"]
    found = {stage: _find(store, stage, fingerprint) for stage, fingerprint in fingerprints.items()}
    return {stage: dataset for stage, dataset in found.items() if dataset is not None}


def notices_of_run(store: Store, run: str) -> list[str]:
    """What was said of the recipe before the run began."""
    plan = f"{store.run_url(run)}/plan.json"
    return [str(sentence) for sentence in read_json(plan).get("notices", ())] if exists(plan) else []


def _runs_before(store: Store, run: str) -> list[str]:
    """Runs that began before this one, the newest first."""
    this = RUN_NAME.fullmatch(run)
    if this is None:
        return []
    matches = [match for name in child_names(f"{store.address}/runs") if (match := RUN_NAME.fullmatch(name))]
    earlier = [match for match in matches if match["time"] < this["time"]]
    return [match.string for match in sorted(earlier, key=lambda match: match["time"], reverse=True)[:LOOKED_AT]]


def _recipe_of(store: Store, run: str) -> str:
    plan = f"{store.run_url(run)}/plan.json"
    if exists(plan):
        return str(read_json(plan).get("recipe", ""))
    match = RUN_NAME.fullmatch(run)
    return match["label"] if match else run


def _completed(store: Store, run: str) -> bool:
    ends = [event["state"] for event in run_events(store.run_url(run)) if event["type"] == "run_ended"]
    return bool(ends) and ends[-1] == "completed"


def _find(store: Store, stage: str, fingerprint: str) -> Dataset | None:
    try:
        return store.find(stage, fingerprint)
    except HeadwaterError:  # a manifest that cannot be read: the report is about the others
        return None
