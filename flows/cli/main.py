"""The ``headwater`` command. Each subcommand is one module; errors become one sentence and a non-zero exit code."""

import gc
import importlib
import json
import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from infra.errors import HeadwaterError

COMMANDS = (
    ("run", "Run a recipe, or a part of it."),
    ("plan", "Say what a run would do, and why."),
    ("status", "List datasets and runs."),
    ("why", "The fate of one document through all stages."),
    ("trace", "From a training step to its documents, from a URL to its steps, from a model to its data."),
    ("takedown", "Who holds or learned from a URL or a domain, and what a rebuild would run again."),
    ("scale", "From a size or a budget to a run: shape, batch, rate, tokens, memory, hours, cost."),
    ("ladder", "Train small models, fit a scaling law, predict the large one."),
    ("inspect", "Schema, counts, drop reasons and samples of a dataset."),
    ("report", "Write or find the report page of a recipe's datasets."),
    ("chat", "Talk with a model."),
    ("generate", "Continue a text, or answer one message."),
    ("evaluate", "Measure a model."),
    ("judge", "Two models answer the same prompts, and a third one says who did better."),
    ("export", "Write a model as a Hugging Face folder."),
    ("render", "Print what SLURM, Kubernetes, Ray or a list of hosts would be handed."),
    ("up", "Start the Prefect server, a worker and all deployments on this machine."),
    ("deploy", "Create pools, limits, deployments and automations on a server that runs already."),
    ("automations", "Create the server's automations: silent runs, failed runs."),
    ("backfill", "Start the pipeline for crawls that were missed."),
    ("backup", "Copy the workspace and the server's database to another place."),
    ("restore", "Bring a workspace back from a backup."),
    ("gc", "Remove what no label, dataset or running work needs."),
    ("doctor", "Check this machine, the workspace and the server, and say how to mend them."),
    ("bench", "Measure against other systems, in one run."),
)


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The command tree; of a known command only its own branch, so that no command pays for the others' imports."""
    known = {name for name, _ in COMMANDS}
    wanted = {arguments[0]} if arguments and arguments[0] in known else known
    app = typer.Typer(
        name="headwater",
        help="From the crawl to a chat model: every document's fate and every token's origin on record.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(lambda: None)  # keeps a single branch a subcommand
    for name, summary in COMMANDS:
        if name not in wanted:
            continue
        module = importlib.import_module(f"flows.cli.{name}")
        settings = {"ignore_unknown_options": True} if name == "bench" else {}
        app.command(name, help=summary, context_settings=settings)(module.command)
    return app


def main() -> None:
    """Entry point of the ``headwater`` script."""
    try:
        build_app(sys.argv[1:])()
    except HeadwaterError as error:
        report_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Nothing is lost: the same command goes on from here.")
        sys.exit(130)
    finally:
        # The interpreter looks for garbage among a million objects of torch and others before it ends: a second for nothing.
        gc.freeze()


def report_error(error: HeadwaterError) -> None:
    """One sentence for people; with ``--json`` on the command line, one JSON object. Both on stderr."""
    if "--json" in sys.argv:
        sys.stderr.write(json.dumps(error.as_dict()) + "\n")
    else:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {_escape(str(error))}")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
