"""``headwater restore``: bring a workspace back from a backup."""

from typing import Annotated

import typer

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json
from flows.cli.status import size
from flows.operate.database import put_back, refuse_while_serving
from infra.store.backup import load_snapshot, restore, restore_extra


def command(
    source: Annotated[str, typer.Option("--from", help="Where headwater backup wrote to.")],
    snapshot: Annotated[str | None, typer.Option(help="Which backup. Default: the newest.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also move back labels that were moved since.")
    ] = False,
    database: Annotated[bool, typer.Option(help="Bring the Prefect server's database back too.")] = True,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    found = load_snapshot(source, snapshot)
    extras = found.extras if database else {}
    if extras:
        refuse_while_serving(store)
    written = restore(store, source, found, overwrite=overwrite)
    for name, entry in extras.items():
        copy = store.home / f"restore-{name}"
        restore_extra(source, entry, copy)
        put_back(store, name, copy)
        copy.unlink(missing_ok=True)
    if json:
        print_json(
            {"snapshot": found.name, "datasets": found.datasets, "bytes": found.bytes, "restored_bytes": written,
             "database": next(iter(extras), None)}
        )  # fmt: skip
        return
    console().print(
        f"Backup {found.name}: {found.datasets} datasets are in place, {size(written)} brought back"
        f"{', and the database' if extras else ''}.",
        markup=False,
    )
