"""How a workspace stands: what runs, what failed and how to mend it, what is next, what is incomplete, how much room is left.

Everything but what is next comes from the store alone, so it is there when the server is not. What cannot be read is
said in its place and hides nothing else.
"""

import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from flows.operate.server import api_call, running_server
from flows.stages import usual_place
from infra.errors import HeadwaterError
from infra.journal import count_receipts
from infra.runs import list_runs, read_events, read_progress
from infra.store.dataset import Dataset
from infra.store.files import child_names, exists, read_json, read_many
from infra.store.lease import lease_holder
from infra.store.store import Store
from infra.work import BESIDE

LOW_SHARE, LOW_BYTES = 0.1, 20e9
"""A disk with less room than both is called nearly full."""
UPCOMING = 5

Row = dict[str, Any]
_INTERRUPTED = "it was interrupted. Nothing is lost."


def situation(store: Store) -> Row:
    """Everything ``headwater status`` tells."""
    datasets, damaged = readable(store)
    runs = list_runs(store)
    return {
        "running": running(store, runs),
        "failed": failed(store, runs),
        "next": upcoming(store),
        "warnings": warnings(store, datasets),
        "damaged": damaged,
        "disk": disk(store, datasets),
        "datasets": dataset_rows(store, datasets),
        "work": work_rows(store),
        "runs": runs,
    }


def readable(store: Store) -> tuple[list[Dataset], list[Row]]:
    """Every dataset, and those whose manifests cannot be read; a label that points nowhere is one of these."""
    found: list[Dataset] = []
    damaged: list[Row] = []
    for name in store.names():
        for fingerprint in store.fingerprints(name):
            try:
                dataset = store.find(name, fingerprint)
            except HeadwaterError as error:
                damaged.append({"name": name, "fingerprint": fingerprint, "error": str(error)})
                continue
            if dataset is not None:
                found.append(dataset)
        known = {dataset.manifest.fingerprint for dataset in found if dataset.name == name}
        known |= {row["fingerprint"] for row in damaged if row["name"] == name}
        for label, target in store.labels(name).items():
            if target not in known:
                error_text = f"its label {label!r} points at a dataset that is not there; a run of its recipe mends it"
                damaged.append({"name": name, "fingerprint": target, "error": error_text})
    return found, damaged


def dataset_rows(store: Store, datasets: Sequence[Dataset]) -> list[Row]:
    """One row a published dataset, in the order in which data flows."""
    labels = {name: labels_of(store, name) for name in {dataset.name for dataset in datasets}}
    rows = [dataset_row(each) | {"labels": labels[each.name].get(each.manifest.fingerprint, [])} for each in datasets]
    return sorted(rows, key=lambda row: (usual_place(row["name"]), row["ended"]))


def dataset_row(dataset: Dataset) -> Row:
    """What its manifest says of it in short."""
    manifest = dataset.manifest
    return {
        "name": dataset.name,
        "fingerprint": manifest.fingerprint,
        "digest": manifest.output_digest,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "complete": manifest.complete,
        "warnings": manifest.warnings,
        "labels": [],
        "ended": manifest.provenance.ended,
        "seconds": round(manifest.provenance.ended - manifest.provenance.started, 1),
    }


def labels_of(store: Store, name: str) -> dict[str, list[str]]:
    """fingerprint -> labels."""
    found: dict[str, list[str]] = {}
    for label, fingerprint in store.labels(name).items():
        found.setdefault(fingerprint, []).append(label)
    return found


def warnings(store: Store, datasets: Sequence[Dataset]) -> list[Row]:
    """What users of the labelled datasets must know, once each."""
    labelled = {(name, target) for name in store.names() for target in store.labels(name).values()}
    found: dict[str, Row] = {}
    for dataset in sorted(datasets, key=lambda each: usual_place(each.name)):
        key = (dataset.name, dataset.manifest.fingerprint)
        if key in labelled:
            for sentence in dataset.manifest.warnings:
                found.setdefault(sentence, {"name": key[0], "fingerprint": key[1], "warning": sentence})
    return list(found.values())


# ---- runs -----------------------------------------------------------------------------------------------------------


def running(store: Store, runs: Sequence[Row]) -> list[Row]:
    """Runs that go on: since when, in which stage, how far, and how long it will take."""
    rows = []
    for run in runs:
        if run["state"] == "running":
            progress = read_progress(store.run_url(run["id"])) or {}
            stage = str(progress.get("stage") or next(reversed(run["stages"]), ""))
            rows.append(
                {
                    "run": run["id"],
                    "recipe": run["recipe"],
                    "started": run["started"],
                    "host": run["host"],
                    "pid": run["pid"],
                    "stage": stage,
                    "since": run["stages"].get(stage.split("/")[0], {}).get("time"),
                    "done": progress.get("done"),
                    "total": progress.get("total"),
                    "figures": progress.get("figures", {}),
                    "eta": progress.get("eta"),
                    "told": progress.get("time"),
                }
            )
    return rows


def failed(store: Store, runs: Sequence[Row]) -> list[Row]:
    """Recipes whose newest run did not complete: where it ended, why, and the command that goes on from there."""
    newest: dict[str, Row] = {}
    for run in runs:
        newest.setdefault(run["recipe"] or run["id"], run)
    rows = []
    for run in newest.values():
        if run["state"] not in ("completed", "running"):
            stages = [(name, event) for name, event in run["stages"].items() if event.get("type") == "stage_failed"]
            stage, event = stages[-1] if stages else (next(reversed(run["stages"]), ""), {})
            error = event.get("error") or run.get("error") or ""
            rows.append(
                {
                    "run": run["id"],
                    "recipe": run["recipe"],
                    "state": run["state"],
                    "stage": stage,
                    "when": run.get("ended") or run["started"],
                    "error": _INTERRUPTED if error == "KeyboardInterrupt" else error or _unexplained(run["state"]),
                    "command": command_again(store, run),
                }
            )
    return rows


def _unexplained(state: str) -> str:
    if state == "unreadable":
        return "its record cannot be read"
    return "it ended without a word: its process was killed, or its machine went away. Nothing is lost."


def command_again(store: Store, run: Row) -> str:
    """The command that runs a recipe or a lab again as it was run; what is finished is not done twice."""
    plan = f"{store.run_url(run['id'])}/plan.json"
    known = read_json(plan) if exists(plan) else {}
    run_or_lab = (
        ["ablate", known["lab"]] if "lab" in known else ["run", known.get("address") or run["recipe"] or "RECIPE"]
    )
    words = ["headwater", *run_or_lab]
    for option, values in _options(known):
        words += [word for value in values for word in (option, value)]
    return shlex.join([*words, "--workspace", store.address])


def _options(plan: Row) -> Iterator[tuple[str, Sequence[str]]]:
    """What a run was asked for, as options of ``headwater run``."""
    selection = plan.get("selection") or {}
    yield "--set", plan.get("overrides") or ()
    yield "--crawl", [plan["crawl"]] if plan.get("crawl") else ()
    for name in ("start_at", "stop_after"):
        yield f"--{name.replace('_', '-')}", [selection[name]] if selection.get(name) else ()
    yield "--only", selection.get("only") or ()
    yield "--force", selection.get("force") or ()


def work_rows(store: Store) -> list[Row]:
    """Datasets somebody is working on now, with their progress."""
    rows = []
    for name, fingerprint in store.works():
        work = store.work_url(name, fingerprint)
        holder = lease_holder(work)
        if holder is None:
            continue
        home = store.work_root(name, fingerprint)
        if exists(f"{work}/{BESIDE}"):  # built again, beside what is published
            work, home = f"{work}/{BESIDE}", home / BESIDE
        events = read_events(home / "events.jsonl")  # of a job on this machine
        progress = [event for event in events if event.get("type") == "progress"]
        plans = [f"{work}/plan/{plan}" for plan in child_names(f"{work}/plan")]
        rows.append(
            {
                "name": name,
                "fingerprint": fingerprint,
                "host": holder["host"],
                "pid": holder["pid"],
                "units_done": count_receipts(f"{work}/journal"),
                "units_planned": sum(plan.count(b'"weight"') for plan in read_many(plans)),
                "progress": progress[-1] if progress else None,
            }
        )
    return rows


# ---- what is next ---------------------------------------------------------------------------------------------------


def upcoming(store: Store) -> Row:
    """Runs that a server has scheduled, the next first; where none answers, ``error`` says so."""
    try:
        api = running_server(store)
        if api is None:
            return {"server": None, "runs": [], "error": None}
        wanted = {
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "PAUSED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": 200,
        }
        found = api_call(api, "/flow_runs/filter", wanted)
        names = {each["id"]: each["name"] for each in _deployments(api, found)}
    except HeadwaterError as error:
        return {"server": None, "runs": [], "error": str(error)}
    rows: dict[str, Row] = {}
    for run in found:
        deployment = names.get(run.get("deployment_id"), run["name"])
        state = run["state_name"]
        # A schedule fills several days ahead: of each deployment the next run, but every one that waits already.
        key = deployment if state == "Scheduled" else run["id"]
        rows.setdefault(key, {"name": deployment, "run": run["name"], "state": state, "at": run["expected_start_time"]})
    return {"server": api, "runs": list(rows.values())[:UPCOMING], "error": None}


def _deployments(api: str, runs: Sequence[Row]) -> Iterator[Row]:
    wanted = sorted({run["deployment_id"] for run in runs if run.get("deployment_id")})
    if wanted:
        yield from api_call(api, "/deployments/filter", {"deployments": {"id": {"any_": wanted}}, "limit": 200})


def seconds_until(when: str) -> float:
    """From now to a time as the server writes it."""
    return datetime.fromisoformat(when.replace("Z", "+00:00")).timestamp() - time.time()


# ---- room -----------------------------------------------------------------------------------------------------------


def disk(store: Store, datasets: Sequence[Dataset]) -> Row:
    """The file system that this machine's part of the workspace is on, and what the datasets take."""
    place = store.home
    while not place.exists() and place != place.parent:
        place = place.parent
    room = shutil.disk_usage(place)
    return {
        "path": str(place),
        "free": room.free,
        "total": room.total,
        "datasets": sum(dataset.manifest.bytes for dataset in datasets),
        "nearly_full": room.free < LOW_SHARE * room.total and room.free < LOW_BYTES,
    }
