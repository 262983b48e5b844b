"""``headwater gc``: remove what no label, dataset or running work needs."""

from typing import Annotated

import typer

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json
from infra.progress import describe_bytes
from infra.store.gc import GcSettings, collect


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    keep_days: Annotated[
        float, typer.Option(min=0, help="Keep what was published or worked on within so many days.")
    ] = 7.0,
    keep_last: Annotated[
        int, typer.Option(min=0, help="Keep the newest versions of each dataset, reached or not.")
    ] = 1,
    runs_days: Annotated[
        float | None, typer.Option(min=0, help="Forget runs that ended so many days ago. Default: keep all.")
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    found = collect(open_store(workspace), GcSettings(keep_days, keep_last, runs_days), dry_run=dry_run)
    published = sum(each.published for each in found.kept)
    if json:
        print_json(
            {
                "dry_run": dry_run,
                "removed": found.removed,
                "passed_over": found.passed_over,
                "datasets_kept": published,
                "kept": found.kept,
                "bytes_freed": found.bytes,
            }
        )
        return
    out = console()
    for removal in found.removed:
        name = f"{removal.name}/{removal.fingerprint}" if removal.fingerprint else removal.name
        out.print(f"{removal.kind:<8} {name}  {describe_bytes(removal.bytes)}  {removal.reason}", markup=False)
    for name in found.passed_over:
        out.print(f"kept     {name}  somebody needs it after all", markup=False)
    if dry_run:
        for each in found.kept:
            unfinished = "" if each.published else " (unfinished)"
            out.print(
                f"kept     {each.name}/{each.fingerprint}{unfinished}  {describe_bytes(each.bytes)}  {each.reason}",
                markup=False,
            )
    verb = "would be freed" if dry_run else "freed"
    why = "" if dry_run else " (--dry-run says why)"
    out.print(f"{describe_bytes(found.bytes)} {verb}; {published} datasets are reached and kept{why}.", markup=False)
