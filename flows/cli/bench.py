"""``headwater bench NAME``: a comparison with other systems, in one run.

A benchmark is a module ``tests/benchmarks/NAME.py`` of the checkout with a function ``run(...) -> {figures, rows}``;
its keyword arguments are the command's options.
"""

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from flows.cli.options import console, own_stdout, print_json, table_of
from infra.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]


def command(
    name: Annotated[
        str, typer.Argument(help="data, quality, dedup, train, align, orchestration, outcome, preference, serve")
    ],
    options: Annotated[list[str] | None, typer.Argument(help="--json and the benchmark's own: --seed 3 …")] = None,
) -> None:
    words = list(options or [])
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    run = _load(name)
    stream = own_stdout() if as_json else None
    result = run(**_keywords(run, words, name))
    if as_json:
        print_json(result, stream)
        return
    table = table_of(f"bench {name}", "figure", ">value")
    for figure, value in result["figures"].items():
        table.add_row(figure, f"{value:,.4g}" if isinstance(value, (int, float)) else str(value))
    console().print(table)


def benchmark_names() -> list[str]:
    folder = REPOSITORY / "tests" / "benchmarks"
    found = (path for path in folder.glob("*.py") if not path.name.startswith("_"))
    return sorted(path.stem for path in found if "\ndef run(" in path.read_text())


def _load(name: str) -> Any:
    if name not in benchmark_names():
        raise ConfigError(
            f"there is no benchmark {name!r}",
            where=str(REPOSITORY / "tests" / "benchmarks"),
            remedy=f"Benchmarks are part of a checkout: {', '.join(benchmark_names()) or 'none is here'}.",
        )
    sys.path.insert(0, str(REPOSITORY))
    # Contenders are modules of the checkout in processes of their own, which look into no working folder.
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *([known] if known else [])])
    return importlib.import_module(f"tests.benchmarks.{name}").run


def _keywords(run: Any, words: list[str], name: str) -> dict[str, Any]:
    """``--size 1000 --peers`` to keyword arguments, converted to the types the function declares."""
    parameters = inspect.signature(run, eval_str=True).parameters
    keywords: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        key = word.removeprefix("--").replace("-", "_")
        if not word.startswith("--") or key not in parameters:
            allowed = ", ".join(f"--{parameter.replace('_', '-')}" for parameter in parameters)
            raise ConfigError(f"benchmark {name} has no option {word!r}", remedy=f"Its options: --json, {allowed}.")
        kind = parameters[key].annotation
        kind = next((part for part in get_args(kind) if part is not type(None)), kind)
        if kind is bool:
            keywords[key] = True
        elif not words:
            raise ConfigError(f"option {word} needs a value", remedy=f"Write {word} VALUE.")
        else:
            text = words.pop(0)
            try:
                keywords[key] = kind(text)
            except ValueError:
                raise ConfigError(f"option {word} cannot be {text!r}", remedy=f"Give a {kind.__name__}.") from None
    return keywords
