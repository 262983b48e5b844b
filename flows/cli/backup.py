"""``headwater backup``: copy the workspace and the server's database to another place."""

from typing import Annotated

import typer

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json
from flows.cli.status import size
from flows.operate.database import database_copy
from infra.store.backup import back_up


def command(
    to: Annotated[str, typer.Option("--to", help="A folder or s3://bucket/prefix; the same one every time.")],
    database: Annotated[bool, typer.Option(help="Copy the Prefect server's database too.")] = True,
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies, on one file system.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    with database_copy(store, store.home / "backup-database", wanted=database) as extras:
        done = back_up(store, to, extras, link=link)
    if json:
        print_json(
            {
                "snapshot": done.name,
                "to": to,
                "datasets": done.datasets,
                "files": len(done.files),
                "bytes": done.bytes,
                "copied_bytes": done.copied_bytes,
                "database": next(iter(done.extras), None),
            }
        )
        return
    kept = f", and the database ({next(iter(done.extras))})" if done.extras else ""
    console().print(
        f"Backup {done.name}: {done.datasets} datasets in {len(done.files)} files, {size(done.bytes)} "
        f"({size(done.copied_bytes)} new){kept}.",
        markup=False,
    )
