"""``headwater find``: where words stand in the training tokens."""

import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from flows.cli.options import JsonOption, LabelOption, WorkspaceOption, console, open_store, print_json


def command(
    text: Annotated[str, typer.Argument(help="The words, or - to read them from standard input.")],
    dataset: Annotated[str, typer.Option(help="An index, or shards that have one.")] = "index",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Spans at most, and documents of each.")] = 10,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    from flows.provenance.find import Finder, index_of

    words = sys.stdin.read() if text == "-" else text
    store = open_store(workspace)
    view = Finder(store, index_of(store, dataset, label)).find(words, limit)
    if json:
        print_json(view)
    else:
        _show(view, words)


def _show(view: dict[str, Any], text: str) -> None:
    out = console()
    if not view["spans"]:
        out.print("No part of it stands in the training tokens, but for words that stand everywhere.")
    for span in view["spans"]:
        times = "once" if span["count"] == 1 else f"{span['count']:,} times"
        out.print(
            Text.assemble((_line(text[span["start"] : span["end"]]), "bold"), f"  {span['tokens']} tokens, {times}")
        )
        for match in span["matches"]:
            steps = ", ".join(dict.fromkeys(str(step["step"]) for step in match["steps"]))
            seen = f"  steps {_line(steps, 60)}" if steps else ""
            place = f"{match['archive']} @ {match['offset']}" if match["archive"] else ""
            out.print(
                Text(
                    f"  {match['source']}  {match['url'] or match['id']}  {place}  {match['shard']}:{match['row']}{seen}"
                )
            )
            before, after = f"    …{_line(match['before'][-60:])}", f"{_line(match['after'][:60])}…"
            out.print(Text.assemble((before, "dim"), (_line(match["text"]), "bold"), (after, "dim")))


def _line(text: str, most: int = 200) -> str:
    """On one line, without control characters, and not for ever."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return shown if len(shown) <= most else f"{shown[: most // 2]} … {shown[-most // 2 :]}"
