"""``headwater status``: published datasets, work in progress and runs, from the store alone."""

import time
from typing import Any

from rich.table import Table

from flows.cli.options import JsonOption, WorkspaceOption, console, labelled, open_store, print_json
from flows.drift import TOLERANCE, drift
from flows.stages import STAGE_NAMES
from infra.journal import count_receipts
from infra.runs import list_runs, read_events
from infra.store.files import child_names, read_many
from infra.store.lease import lease_holder
from infra.store.store import Store


def command(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    store = open_store(workspace)
    status = {
        "datasets": dataset_rows(store),
        "work": work_rows(store),
        "runs": list_runs(store),
        "drift": drift_rows(store),
    }
    if json:
        print_json(status)
        return
    out = console()
    if not any(status.values()):
        out.print(f"{store.address}: nothing is published here yet. Begin with: headwater run demo", markup=False)
        return
    out.print(_datasets_table(status["datasets"]))
    if status["work"]:
        out.print(_work_table(status["work"]))
    out.print(_runs_table(status["runs"]))
    for moved in status["drift"]:
        for warning in moved["warnings"]:
            out.print(f"warning: {warning}", markup=False)


def dataset_rows(store: Store) -> list[dict[str, Any]]:
    """One row a published dataset, in the order in which data flows."""
    rows = []
    for dataset in store.datasets():
        manifest = dataset.manifest
        labels = [label for label, target in store.labels(dataset.name).items() if target == manifest.fingerprint]
        rows.append(
            {
                "name": dataset.name,
                "fingerprint": manifest.fingerprint,
                "digest": manifest.output_digest,
                "rows": manifest.rows,
                "bytes": manifest.bytes,
                "labels": labels,
                "ended": manifest.provenance.ended,
                "seconds": round(manifest.provenance.ended - manifest.provenance.started, 1),
            }
        )
    order = {name: position for position, name in enumerate(STAGE_NAMES)}
    return sorted(rows, key=lambda row: (order.get(row["name"], len(order)), row["ended"]))


def drift_rows(store: Store) -> list[dict[str, Any]]:
    """The newest dataset of each document stage whose drop rates moved since the snapshot before."""
    found = [drift(store, dataset, TOLERANCE) for dataset in labelled(store, "latest")]
    return [{**moved.as_dict(), "warnings": moved.sentences()} for moved in found if moved and moved.changes]


def work_rows(store: Store) -> list[dict[str, Any]]:
    """Datasets somebody is working on now, with their progress."""
    rows = []
    for name, fingerprint in store.works():
        work = store.work_url(name, fingerprint)
        holder = lease_holder(work)
        if holder is None:
            continue
        events = read_events(store.work_root(name, fingerprint) / "events.jsonl")  # of a job on this machine
        progress = [event for event in events if event.get("type") == "progress"]
        plans = [f"{work}/plan/{plan}" for plan in child_names(f"{work}/plan")]
        planned = sum(_unit_count(plan) for plan in read_many(plans))
        rows.append(
            {
                "name": name,
                "fingerprint": fingerprint,
                "host": holder["host"],
                "pid": holder["pid"],
                "units_done": count_receipts(f"{work}/journal"),
                "units_planned": planned,
                "progress": progress[-1] if progress else None,
            }
        )
    return rows


def _unit_count(plan: bytes) -> int:
    return plan.count(b'"weight"')


def _datasets_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Datasets", title_justify="left", box=None, pad_edge=False)
    for heading in ("dataset", "fingerprint", "digest", "rows", "size", "labels", "built in"):
        table.add_column(heading, justify="right" if heading in ("rows", "size", "built in") else "left")
    for row in rows:
        table.add_row(
            row["name"], row["fingerprint"], row["digest"][:12], f"{row['rows']:,}", size(row["bytes"]),
            " ".join(row["labels"]), f"{row['seconds']:.0f} s",
        )  # fmt: skip
    return table


def _work_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="In progress", title_justify="left", box=None, pad_edge=False)
    for heading in ("dataset", "fingerprint", "by", "done"):
        table.add_column(heading)
    for row in rows:
        step = row["progress"]
        done = (
            f"{step['done']} of {step['total']} steps"
            if step
            else f"{row['units_done']} of {row['units_planned']} units"
        )
        table.add_row(row["name"], row["fingerprint"], f"{row['host']} process {row['pid']}", done)
    return table


def _runs_table(rows: list[dict[str, Any]], limit: int = 10) -> Table:
    table = Table(title="Runs", title_justify="left", box=None, pad_edge=False)
    for heading in ("run", "state", "started", "last stage"):
        table.add_column(heading)
    for row in rows[:limit]:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started"]))
        table.add_row(row["id"], row["state"], started, next(reversed(row["stages"]), ""))
    return table


def size(number: float) -> str:
    """``1.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
