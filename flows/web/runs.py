"""The tab Runs: datasets with what they were made from, runs, funnels, and the curves of trainings, also of running ones.

    /api/datasets             every published dataset, and what is being built now
    /api/runs                 the newest runs
    /api/funnel?run= (label=) what each document stage received, kept and dropped
    /api/curves?dataset=      a training's figures; ``since`` asks for what came after a step

Two runs are compared by asking for both.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from flows.provenance.funnel import funnel, funnel_by_source
from flows.provenance.run_history import datasets_of_run
from flows.report.curves import curves, has_curves
from flows.situation import dataset_row, labels_of, running, work_rows
from flows.stages import labelled, usual_place
from flows.web.documents import Label
from flows.web.site import Site
from infra.errors import HeadwaterError, InputError, NotFound
from infra.runs import RUN_NAME, list_runs
from infra.store.files import exists, read_json
from infra.store.manifest import MANIFEST
from infra.store.store import Store

NEWEST = 200
Row = dict[str, Any]


def router(site: Site) -> APIRouter:
    routes = APIRouter(prefix="/api")
    known: dict[tuple[str, int], Row] = {}
    """Of each manifest as it was last written: long ones are read once."""

    @routes.get("/datasets")
    def datasets() -> list[Row]:
        rows = _published(site.store, known)
        return [*rows, *_building(site.store, rows)]

    @routes.get("/runs")
    def runs() -> list[Row]:
        found = list_runs(site.store, NEWEST)
        progress = {row["run"]: row for row in running(site.store, found)}
        return [_run_row(run) | {"progress": progress.get(run["id"])} for run in found]

    @routes.get("/funnel")
    def funnel_of(run: Annotated[str, Query(max_length=300)] = "", label: Label = "latest") -> Row:
        chosen = (
            list(datasets_of_run(site.store, _run(site.store, run)).values()) if run else labelled(site.store, label)
        )
        rows = [asdict(row) | {"dropped": dict(row.dropped)} for row in funnel(chosen)]
        return {"run": run or None, "stages": rows, "by_source": [asdict(row) for row in funnel_by_source(chosen)]}

    @routes.get("/curves")
    def curves_of(dataset: Annotated[str, Query(max_length=300)], since: Annotated[int, Query(ge=0)] = 0) -> Row:
        return curves(site.store, dataset, since)

    return routes


def _published(store: Store, known: dict[tuple[str, int], Row]) -> list[Row]:
    rows = []
    for name in store.names():
        labels = labels_of(store, name)
        for fingerprint in store.fingerprints(name):
            key = _version(store, name, fingerprint)
            row = known.get(key) or _described(store, name, fingerprint)
            if row is not None:
                if store.is_local:
                    known[key] = row
                rows.append(row | {"labels": labels.get(fingerprint, [])})
    return sorted(rows, key=lambda row: (usual_place(row["kind"]), row["ended"]))


def _version(store: Store, name: str, fingerprint: str) -> tuple[str, int]:
    """A dataset that is built again (``--force``) bears the same name."""
    manifest = store.dataset_root(name, fingerprint) / MANIFEST
    return f"{name}/{fingerprint}", manifest.stat().st_mtime_ns if manifest.exists() else 0


def _described(store: Store, name: str, fingerprint: str) -> Row | None:
    """A dataset's row; None of one that is not finished, or whose manifest is spoilt: that may change."""
    try:
        dataset = store.find(name, fingerprint)
    except HeadwaterError:
        return None
    if dataset is None:
        return None
    made = dataset.manifest.provenance
    inputs = [{"role": r.role, "name": r.name, "fingerprint": r.fingerprint} for r in dataset.manifest.inputs]
    return dataset_row(dataset) | {
        "kind": dataset.kind,
        "inputs": inputs,
        "run": made.run,
        "recipe": made.recipe,
        "curves": has_curves(dataset),
        "state": "published",
    }


def _building(store: Store, published: Sequence[Row]) -> list[Row]:
    """What somebody works on now; of a training, its curves can be asked for already."""
    rows = []
    for row in work_rows(store):
        try:
            started = bool(curves(store, f"{row['name']}/{row['fingerprint']}", since=1 << 60)["running"])
        except HeadwaterError:
            started = False
        inputs = _inputs_of_work(store, row, published)
        rows.append(row | {"kind": row["name"], "inputs": inputs, "labels": [], "curves": started, "state": "running"})
    return rows


def _inputs_of_work(store: Store, row: Row, published: Sequence[Row]) -> list[Row]:
    """What a dataset is being made from: its payload names the digests."""
    payload = f"{store.work_url(row['name'], row['fingerprint'])}/payload.json"
    if not exists(payload):
        return []
    known = {each["digest"]: each for each in published}
    return [
        {"role": role, "name": known[digest]["name"], "fingerprint": known[digest]["fingerprint"]}
        for role, digest in read_json(payload).get("inputs", {}).items()
        if digest in known
    ]


def _run(store: Store, run: str) -> str:
    if not RUN_NAME.fullmatch(run):
        raise InputError(f"{run[:100]!r} is no run", where="run", remedy="/api/runs lists them.")
    if not exists(f"{store.run_url(run)}/run.json"):
        raise NotFound(f"there is no run {run!r}", where=store.address)
    return run


def _run_row(run: Row) -> Row:
    """What a page may know of a run: nothing of the machine's processes."""
    stages = {
        name: {key: event.get(key) for key in ("type", "fingerprint", "seconds", "error", "time")}
        for name, event in run["stages"].items()
    }
    return {key: run.get(key) for key in ("id", "recipe", "state", "started", "ended", "error")} | {"stages": stages}
