"""``headwater why``: the fate of one document or conversation."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

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
from flows.provenance.differences import difference_of
from flows.provenance.fates import CONVERSATION_STAGES, DocumentFate, StageVerdict, fate_of
from flows.stages import document_stages, labelled
from infra.errors import InputError
from pipeline.dedup.difference import Difference

_HUNKS = 20


def command(
    url_or_id: Annotated[
        str, typer.Argument(help="A URL, a document id of 32 hex digits, or the id of a conversation.")
    ],
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    store = open_store(workspace)
    stages = document_stages(store, label)
    talks = [dataset for dataset in labelled(store, label) if dataset.name in CONVERSATION_STAGES]
    if not stages and not talks:
        raise InputError(
            f"no document stage is published under {label!r}",
            where=store.address,
            remedy="A label is given when a run is complete: run a recipe to its end.",
        )
    fate = fate_of(url_or_id, [*stages, *talks])
    found = difference_of(fate, stages)
    if json:
        print_json(asdict(fate) | ({"difference": found} if found else {}))
    else:
        _show(fate)
        if found:
            _show_difference(found)


def _show(fate: DocumentFate) -> None:
    out = console()
    out.print(Text.assemble((plain(fate.url or fate.id), "bold"), f"  ({fate.id})"))
    if fate.document:
        known = "; ".join(f"{name} {value}" for name, value in fate.document.items())
        out.print(f"  {plain(known)}", style="dim", markup=False)
    for verdict in fate.history:
        out.print(f"  {verdict.stage:<14} {plain(_sentence(verdict))}", markup=False)
    if fate.others:
        out.print(f"  {len(fate.others)} more records have this URL: {', '.join(fate.others[:5])}", markup=False)


def _show_difference(found: Difference) -> None:
    """Changed passages with a few words around them: - only in the dropped text, + only in the survivor."""
    out = console()
    out.print(f"  {found.similarity:.1%} of the shingles in common, {found.containment:.1%} of the shorter text's")
    for hunk in found.hunks[:_HUNKS]:
        print_passage(out, hunk.side, hunk.text, "  ")
    if len(found.hunks) > _HUNKS:
        out.print(f"  … and {len(found.hunks) - _HUNKS} more passages", style="dim")


def _sentence(verdict: StageVerdict) -> str:
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
