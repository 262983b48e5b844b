"""Options that several commands share, and how commands speak: tables for people, JSON for programs."""

import json
import math
import os
import signal
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

from flows.context import open_store as open_store
from flows.recipe_file import DEPLOYED, SCALE
from infra.config import message_of
from infra.errors import ConfigError

if TYPE_CHECKING:
    from training.generate import Sampling

_AROUND, _LONGEST = 60, 400

WorkspaceOption = Annotated[
    str | None,
    typer.Option("--workspace", help="Where datasets, work and runs live. Default: $HEADWATER_HOME or ./workspace."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
RecipeArgument = Annotated[str, typer.Argument(help="A bundled recipe's name, or a YAML file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a field: dedup.bands=20, execution.workers=8. Repeatable.")
]
ScaleOption = Annotated[
    str | None,
    typer.Option("--scale", help="Derive the pretraining from this many parameters (125M), as `scale:` in a recipe."),
]
CrawlOption = Annotated[
    str, typer.Option("--crawl", help="Run on this crawl (CC-MAIN-2026-46) as the next one of the recipe's series.")
]
RecipesOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", help=f"A recipe to deploy, by name or file. Repeatable; default {', '.join(DEPLOYED)}."),
]
WatchOption = Annotated[
    bool | None,
    typer.Option(
        "--watch/--no-watch",
        help="Whether a new crawl watch begins switched on. Default: if a recipe is named. One that exists stays as it is.",
    ),
]
LabelOption = Annotated[str, typer.Option("--label", help="The recipe (or other label) whose datasets are meant.")]


def sampling_of(**settings: Any) -> "Sampling":
    """How a command's options say that tokens are drawn. Raises ConfigError for what no option's bound holds back (inf)."""
    from pydantic import ValidationError

    from training.generate import Sampling

    try:
        return Sampling(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(message_of(first), where=f"--{str(first['loc'][0]).replace('_', '-')}") from None


def interrupt_on_term() -> None:
    """A polite TERM (a container stopping, a worker cancelling) ends a command as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def table_of(title: str, *headings: str) -> Table:
    """A table with a title, if it has one; a heading that begins with ``>`` stands above numbers."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        numbers = heading.startswith(">")
        made.add_column(heading.removeprefix(">"), justify="right" if numbers else "left", overflow="fold")
    return made


def own_stdout() -> TextIO:
    """Standard output for this command's result alone. Whatever else is printed there from now on, by a library or by
    a process that it starts (Ray's do), goes to standard error."""
    stdout = sys.__stdout__
    if stdout is None or sys.stdout is not stdout:  # a caller of ours has put something else in its place
        return sys.stdout
    stdout.flush()
    result = os.fdopen(os.dup(stdout.fileno()), "w", encoding=stdout.encoding)
    os.dup2(sys.stderr.fileno(), stdout.fileno())
    return result


def plain(text: str) -> str:
    """Without what a terminal would obey instead of showing: a crawl holds anything."""
    return "".join(letter if letter.isprintable() or letter in "\t\n" else "\ufffd" for letter in text)


def print_passage(out: Console, side: str, text: str, indent: str) -> None:
    """A line of two texts' difference: - ``dropped``, + ``survivor``, or in both, of which the ends are enough."""
    sign, style = {"dropped": ("-", "red"), "survivor": ("+", "green"), "both": (" ", "dim")}[side]
    text = " ".join(plain(text).split())
    if side == "both" and len(text) > 2 * _AROUND:
        text = f"{text[:_AROUND]} … {text[-_AROUND:]}"
    out.print(f"{indent}{sign} {text[:_LONGEST]}", style=style, markup=False)


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """One object, dataclasses as such too; NaN and infinity as null. Raises TypeError for what JSON has no form for."""
    out = stream or sys.stdout
    out.write(json.dumps(_finite(value), indent=2, default=_encode, allow_nan=False) + "\n")
    out.flush()


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity (the loss of a training that diverged): they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def _encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def overrides(set_: list[str] | None, scale: str | None) -> list[str]:
    """``--set`` and ``--scale`` as a recipe's overrides."""
    return [*(set_ or ()), *([f"{SCALE}{scale}"] if scale else [])]
