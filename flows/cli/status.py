"""``headwater status``: what runs, what failed and how to mend it, what is next, how much room is left.

The answer for somebody who was woken up: first what needs a hand. Datasets, finished runs and their figures are behind
``--all``; ``--json`` has everything.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json, table_of
from flows.provenance.drop_rates import TOLERANCE, rate_changes
from flows.situation import seconds_until, situation
from infra.errors import HeadwaterError
from infra.progress import describe_bytes, describe_progress, describe_seconds
from infra.store.store import Store

SHOWN = 8
"""Lines of warnings, and runs, before the rest is counted."""

Row = dict[str, Any]


def command(
    all_: Annotated[bool, typer.Option("--all", help="Datasets and finished runs too.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    found = situation(store) | {"drift": drop_rate_rows(store)}
    if json:
        print_json(found)
        return
    out = console()
    if not any(found[key] for key in ("datasets", "work", "runs", "damaged")):
        out.print(f"{store.address}: nothing is published here yet. Begin with: headwater run demo", markup=False)
        return
    for heading, style, body in _parts(found):
        lines = list(body)
        if lines:
            out.print(Text(heading, style=f"bold {style}".strip()))
            for depth, line in lines:
                # Sentences and commands are copied from here: they are not cut, and wrap only on a terminal.
                out.print(
                    Padding(Text(line), (0, 0, 0, 2 * depth)) if out.is_terminal else "  " * depth + line, markup=False
                )
    if all_:
        out.print(_datasets_table(found["datasets"]))
        if found["work"]:
            out.print(_work_table(found["work"]))
        out.print(_runs_table(found["runs"]))
    else:
        out.print(_rest(found), markup=False)


Lines = Iterator[tuple[int, str]]


def _parts(found: Row) -> list[tuple[str, str, Lines]]:
    """What is told, in the order of how much it matters: heading, its colour, lines with their depth."""
    return [
        ("Running", "cyan", _running(found["running"])),
        ("Not completed", "red", _failed(found["failed"])),
        ("Damaged", "red", _damaged(found["damaged"])),
        ("Warnings", "yellow", _warned(found["warnings"], found["drift"])),
        ("Next", "", _next(found["next"])),
        ("Disk", "red" if found["disk"]["nearly_full"] else "", _disk(found["disk"])),
    ]


def _running(rows: Sequence[Row]) -> Lines:
    if not rows:
        yield 1, "nothing"
    for row in rows:
        yield 1, f"{row['run']}, for {_ago(row['started'])}, {row['host'].partition('/')[0]} process {row['pid']}"
        if row["stage"]:
            progress = describe_progress(row["done"] or 0, row["total"] or 0, row["figures"], row["eta"])
            silent = row["told"] is not None and time.time() - row["told"] > 120
            yield 2, f"{row['stage']}: {progress or 'started'}" + (f" (told {_ago(row['told'])} ago)" if silent else "")


def _failed(rows: Sequence[Row]) -> Lines:
    for row in rows:
        stage = f" in stage {row['stage']}" if row["stage"] else ""
        yield 1, f"{row['run']} {row['state']}{stage}, {_ago(row['when'])} ago"
        yield 2, str(row["error"])
        yield 2, f"To go on: {row['command']}"


def _damaged(rows: Sequence[Row]) -> Lines:
    for row in rows[:SHOWN]:
        yield 1, f"{row['name']}/{row['fingerprint']}: {row['error']}"
    if len(rows) > SHOWN:
        yield 1, f"and {len(rows) - SHOWN} more"


def _warned(rows: Sequence[Row], moved: Sequence[Row]) -> Lines:
    lines = [f"{row['name']}/{row['fingerprint']}: {row['warning']}" for row in rows]
    lines += [sentence for row in moved for sentence in row["warnings"]]
    yield from ((1, line) for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield 1, f"and {len(lines) - SHOWN} more: headwater status --json"


def _next(found: Row) -> Lines:
    if found["server"] is None:
        yield 1, found["error"] or "nothing is scheduled: no Prefect server answers (headwater up)"
    elif not found["runs"]:
        yield 1, "nothing is scheduled"
    for row in found["runs"]:
        wait = seconds_until(row["at"]) if row["at"] else 0.0
        at = datetime.fromtimestamp(time.time() + wait).strftime("%Y-%m-%d %H:%M")
        when = f"at {at}, in {describe_seconds(wait)}" if wait > 0 else f"{row['state'].lower()} since {at}"
        yield 1, f"{row['name']} {when} ({row['run']})"


def _disk(row: Row) -> Lines:
    share = row["free"] / row["total"] if row["total"] else 0.0
    full = ": nearly full; headwater gc --dry-run says what may go" if row["nearly_full"] else ""
    yield (
        1,
        f"{describe_bytes(row['free'])} of {describe_bytes(row['total'])} free ({share:.0%}) at {row['path']}{full}",
    )


def _rest(found: Row) -> str:
    """What is not shown, in one line."""
    datasets, runs = found["datasets"], found["runs"]
    last = next((run for run in runs if run["state"] == "completed"), None)
    done = f"; last completed: {last['id']}, {_ago(last.get('ended') or last['started'])} ago" if last else ""
    total = describe_bytes(sum(row["bytes"] for row in datasets))
    return f"{_many(len(datasets), 'dataset')}, {total}, {_many(len(runs), 'run')}{done}. All of them: headwater status --all"


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' if number != 1 else ''}"


def _ago(when: float) -> str:
    return describe_seconds(max(0.0, time.time() - when))


def drop_rate_rows(store: Store) -> list[Row]:
    """The newest dataset of each document stage whose drop rates moved since the snapshot before."""
    rows = []
    for name in store.names():
        try:
            dataset = store.get_ref(name, "latest")
            moved = rate_changes(store, dataset, TOLERANCE) if dataset is not None else None
        except HeadwaterError:  # a manifest that cannot be read: it is among the damaged
            continue
        if moved is not None and moved.changes:
            rows.append({**asdict(moved), "warnings": moved.sentences()})
    return rows


# ---- tables ---------------------------------------------------------------------------------------------------------


def _datasets_table(rows: Sequence[Row]) -> Table:
    table = table_of("Datasets", "dataset", "fingerprint", "digest", ">rows", ">size", "labels", ">built in")
    for row in rows:
        table.add_row(
            row["name"] + ("" if row["complete"] else " (incomplete)"), row["fingerprint"], row["digest"][:12],
            f"{row['rows']:,}", describe_bytes(row["bytes"]), " ".join(row["labels"]), f"{row['seconds']:.0f} s",
        )  # fmt: skip
    return table


def _work_table(rows: Sequence[Row]) -> Table:
    table = table_of("In progress", "dataset", "fingerprint", "by", "done")
    for row in rows:
        step = row["progress"]
        done = (
            f"{step['done']} of {step['total']} steps"
            if step
            else f"{row['units_done']} of {row['units_planned']} units"
        )
        table.add_row(row["name"], row["fingerprint"], f"{row['host']} process {row['pid']}", done)
    return table


def _runs_table(rows: Sequence[Row], limit: int = 20) -> Table:
    table = table_of("Runs", "run", "state", "started", "last stage")
    for row in rows[:limit]:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started"]))
        table.add_row(row["id"], row["state"], started, next(reversed(row["stages"]), ""))
    return table
