"""``headwater doctor``: is everything there that this machine, workspace and server need?"""

from collections.abc import Iterator
from typing import Annotated

import typer

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json
from flows.operate.doctor import server_checks
from flows.operate.up import DEFAULT_PORT
from infra.doctor import Check, machine_checks
from infra.errors import HeadwaterError

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def command(
    fix: Annotated[bool, typer.Option("--fix", help="Remove stale locks of extension builds.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that headwater up would use.")] = DEFAULT_PORT,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    failed = False
    found = []
    out = console()
    for check in examine(workspace, port, fix):
        failed |= check.state == "fail"
        found.append(check)
        if not json:
            out.print(f"[{STYLES[check.state]}]{check.state:<5}[/]{check.name:<13}", end="")
            mend = f"  -> {check.remedy}" if check.remedy and check.state != "ok" else ""
            out.print(f"{check.detail}{mend}", markup=False)
    if json:
        print_json({"checks": found})
    if failed:
        raise typer.Exit(1)


def examine(workspace: str | None, port: int, fix: bool) -> Iterator[Check]:
    """Every check; without a workspace that opens, that alone."""
    try:
        store = open_store(workspace)
    except HeadwaterError as error:
        yield Check("workspace", "fail", f"{error.error} ({error.where})", error.remedy)
        return
    yield from machine_checks(store, fix)
    yield from server_checks(store, port)
