"""``headwater why``: the fate of one document."""

from typing import Annotated

import typer

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, document_stages, open_store, print_json
from flows.fates import Fate, Verdict, fate_of
from infra.errors import InputError


def command(
    url_or_id: Annotated[str, typer.Argument(help="A URL, or a document id of 32 hex digits.")],
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    stages = document_stages(store, label)
    if not stages:
        raise InputError(
            f"no document stage is published under {label!r}", where=str(store.home), remedy="Run a recipe first."
        )
    fate = fate_of(url_or_id, stages)
    if json:
        print_json(fate.as_dict())
    else:
        _show(fate)


def _show(fate: Fate) -> None:
    out = console()
    out.print(f"[bold]{fate.url or fate.id}[/]  ({fate.id})")
    for verdict in fate.history:
        out.print(f"  {verdict.stage:<14} {_sentence(verdict)}", markup=False)
    if fate.others:
        out.print(f"  {len(fate.others)} more records have this URL: {', '.join(fate.others[:5])}", markup=False)


def _sentence(verdict: Verdict) -> str:
    parts = [verdict.verdict]
    if verdict.rule:
        parts.append(f"by {verdict.rule}")
    if verdict.score is not None:
        bound = f" (threshold {verdict.threshold:.4g})" if verdict.threshold is not None else ""
        parts.append(f"score {verdict.score:.4g}{bound}")
    if verdict.survivor:
        parts.append(f"in favour of {verdict.survivor_url or verdict.survivor}")
    if verdict.detail:
        parts.append(f"- {verdict.detail}")
    return " ".join(parts)
