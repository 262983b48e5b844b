"""``headwater documents``: search, or one document from its archive to the steps that learned from it."""

from typing import Annotated, Any

import typer

from flows.cli.options import (
    JsonOption,
    LabelOption,
    WorkspaceOption,
    console,
    open_store,
    plain,
    print_json,
    print_passage,
)
from flows.provenance.document import document_view
from flows.provenance.search import MOST, search
from flows.provenance.wanted import Wanted
from flows.stages import document_stages
from infra.errors import ConfigError, InputError

Row = dict[str, Any]
_SHOWN = 1200
_SIDES = {"delete": "dropped", "insert": "survivor", "equal": "both"}


def command(
    document: Annotated[
        str | None, typer.Argument(help="One document: its id, or its URL as the crawl has it.")
    ] = None,
    url: Annotated[str, typer.Option(help="A part of the address.")] = "",
    domain: Annotated[str, typer.Option(help="The host, or a domain above it.")] = "",
    text: Annotated[str, typer.Option(help="Words in the text as extracted, literally and in either case.")] = "",
    source: Annotated[str, typer.Option(help="The source it came from.")] = "",
    language: Annotated[str, typer.Option(help="Its language, as in en.")] = "",
    rule: Annotated[str, typer.Option(help="The rule that decided about it.")] = "",
    fate: Annotated[str, typer.Option(help="kept, dropped or failed.")] = "",
    stage: Annotated[str, typer.Option(help="The stage that decided about it.")] = "",
    least: Annotated[list[str] | None, typer.Option("--min", help="An attribute's least value: words=50.")] = None,
    most: Annotated[list[str] | None, typer.Option("--max", help="An attribute's greatest value: words=50.")] = None,
    after: Annotated[str, typer.Option(help="Go on where an earlier page ended.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="So many documents.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, help="Look no longer than this.")] = 30.0,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    wanted = Wanted(url, domain, text, source, language, rule, fate, stage, _bounds(least), _bounds(most))
    if document is not None and wanted != Wanted():
        raise ConfigError("one document is named and others are looked for", remedy="Give a document, or options.")
    store = open_store(workspace)
    if document is not None:
        view = document_view(store, document, label)
        print_json(view) if json else _show(view)
        return
    stages = document_stages(store, label)
    if not stages:
        raise InputError(f"no document stage is published under {label!r}", where=store.address)
    page = search(stages, store.get_ref("attributes", label), wanted, after=after, limit=limit, seconds=seconds)
    print_json(page) if json else _show_page(page)


def _bounds(given: list[str] | None) -> dict[str, float]:
    found = {}
    for each in given or ():
        name, _, value = each.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"{each!r} names no bound", remedy="Write an attribute and a number: words=50.") from None
    return found


def _show_page(page: Row) -> None:
    out = console()
    for row in page["documents"]:
        fate = row["fate"]
        told = f"{fate['verdict']} by {fate['rule']} ({fate['stage']})" if fate["rule"] else fate["verdict"]
        size = "" if row["characters"] is None else f", {row['characters']:,} characters"
        out.print(f"{row['id']}  {told}{size}", markup=False)
        for line in (row["url"] or row["title"], row["excerpt"]):
            if line:
                out.print(f"    {plain(' '.join(line.split()))}", markup=False)
    out.print(f"looked at {page['looked_at']:,} of {page['of']:,}" + ("; time was over" if page["partial"] else ""))
    if page["next"]:
        out.print(f"the next ones: --after {page['next']}", markup=False)


def _show(view: Row) -> None:
    out = console()
    out.print(plain(view["url"] or view["id"]), style="bold", markup=False)
    for name in ("id", "title", "source", "language"):
        if view[name]:
            out.print(f"  {name} {plain(str(view[name]))}", markup=False)
    crawled = view["crawled"]
    out.print("\nas crawled", style="bold")
    out.print(_indented(crawled.get("unavailable") or crawled["text"]), markup=False)
    for stage in view["stages"]:
        decided = f" by {stage['rule']}" if stage["rule"] else ""
        out.print(f"\n{stage['stage']}: {stage['verdict']}{decided}", style="bold", markup=False)
        if stage["changes"]:
            _show_changes(stage["changes"])
        elif stage["text"] is not None:
            out.print(_indented(stage["text"]), markup=False)
    for other in view["duplicates"]:
        alike = "" if other["similarity"] is None else f", {other['similarity']:.1%} alike"
        out.print(f"\nduplicate, {other['relation']}{alike}: {plain(other['url'] or other['id'])}", markup=False)
        _show_changes(other["difference"] or ())
    tokens = view["tokens"]
    steps = f"; steps {', '.join(map(str, tokens['steps']))} of {tokens['model']}" if tokens["steps"] else ""
    out.print(f"\n{tokens['count']:,} tokens in {len(tokens['rows'])} rows{steps}", markup=False)


def _show_changes(changes: "list[Row] | tuple[()]") -> None:
    out = console()
    for change in changes:
        print_passage(out, _SIDES[change["kind"]], change["text"], "    ")


def _indented(text: str) -> str:
    cut = text[:_SHOWN] + (" …" if len(text) > _SHOWN else "")
    return "\n".join(f"    {plain(line)}" for line in cut.splitlines())
