"""``headwater takedown``: who holds, or learned from, a document that must go, and what a rebuild would run again."""

from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json


def command(
    url: Annotated[str | None, typer.Option(help="The document's URL.")] = None,
    domain: Annotated[str | None, typer.Option(help="A domain, with its subdomains.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from flows.provenance.takedown import takedown

    store = open_store(workspace)
    view = takedown(store.datasets(), store.work_root, url=url, domain=domain)
    if json:
        print_json(view)
    else:
        _show(view, console())


def _show(view: dict[str, list[dict[str, object]]], out: Console) -> None:
    def line(text: str) -> None:
        out.print(text, markup=False)

    if not view["documents"]:
        line("No dataset holds such a document. A URL is compared as it is written; --domain finds all spellings.")
        return
    line(f"{len(view['documents'])} document{'s' * (len(view['documents']) != 1)}")
    for document in view["documents"][:20]:
        line(f"  {document['id']}  {document['url']}")
    if len(view["documents"]) > 20:
        line(f"  and {len(view['documents']) - 20} more (--json lists all)")
    line("Datasets that hold them")
    for entry in view["datasets"]:
        name = f"{entry['name']}/{entry['fingerprint']}"
        line(f"  {name:<28} {entry['rows']} rows, {entry['ledger_rows']} ledger entries")
    for heading, key in (
        ("Token shards", "shards"),
        ("Training steps that learned from them", "steps"),
        ("Checkpoints that carry what was learned", "checkpoints"),
        ("Datasets made from these", "derived"),
    ):
        if view[key]:
            line(heading)
        for entry in view[key]:
            line(f"  {_describe(entry)}")
    rebuild = ", ".join(map(str, view["rebuild"]))
    line(f"A rebuild without them would run: {rebuild or 'nothing, no text of theirs is left'}")


def _describe(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    if "shard" in entry:
        return f"{entry['shard']} of shards/{entry['fingerprint']}: {len(entry['rows'])} rows, {entry['tokens']} tokens"
    steps = entry["steps"]
    more = f" and {len(steps) - 20} more" if len(steps) > 20 else ""
    return f"{entry['dataset']}: {', '.join(map(str, steps[:20]))}{more}"
