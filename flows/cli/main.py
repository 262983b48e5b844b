"""The ``headwater`` command. Each subcommand is one module; errors become one sentence and a non-zero exit code.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong, 130 interrupted. With ``--json`` on the command
line every one of them but the first puts one object, ``{error, where, remedy}``, on standard error. What is imported
before ``main`` catches anything is next to nothing, so that Ctrl-C in the first second is an interruption too.
"""

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from infra.errors import HeadwaterError, describe_os_error, missing_package

if TYPE_CHECKING:
    import typer

COMMANDS = (
    ("run", "Run a recipe, or a part of it."),
    ("plan", "Say what a run would do, and why."),
    ("status", "List datasets and runs."),
    ("why", "The fate of one document through all stages."),
    ("documents", "Find documents; see one from its archive to the steps that learned from it."),
    ("trace", "From a training step to its documents, from a URL to its steps, from a model to its data."),
    ("find", "Where words stand in the training tokens: documents, archives, steps."),
    ("takedown", "Who holds or learned from a URL or a domain, and what a rebuild would run again."),
    ("scale", "From a size or a budget to a run: shape, batch, rate, tokens, memory, hours, cost."),
    ("ladder", "Train small models, fit a scaling law, predict the large one."),
    ("ablate", "Which corpus makes the better model: arms, seeds, rates, intervals."),
    ("mix", "Weights of sources for a target, by one small model a source."),
    ("inspect", "Schema, counts, drop reasons and samples of a dataset."),
    ("report", "Write or find the report page of a recipe's datasets."),
    ("chat", "Talk with a model."),
    ("generate", "Continue a text, or answer one message."),
    ("serve", "Chat, the OpenAI API, documents and runs over HTTP."),
    ("evaluate", "Measure a model."),
    ("judge", "Two models answer the same prompts, and a third one says who did better."),
    ("votes", "People's votes on answers: a dataset to learn from, and a board; who may vote."),
    ("export", "Write a model as a Hugging Face folder."),
    ("render", "Print what SLURM, Kubernetes, Ray or a list of hosts would be handed."),
    ("up", "Start the Prefect server, a worker and all deployments on this machine."),
    ("deploy", "Create pools, limits, deployments and automations on a server that runs already."),
    ("automations", "Create the server's automations: silent runs, failed runs."),
    ("backfill", "Start the pipeline for crawls that were missed."),
    ("gc", "Remove what no label, dataset or running work needs."),
    ("doctor", "Check this machine, the workspace and the server, and say how to mend them."),
    ("bench", "Measure against other systems, in one run."),
)


PROGRAM = "headwater"
INTERRUPTED_CODE = 130
INTERRUPTED = HeadwaterError("interrupted; nothing is lost", remedy="The same command goes on from here.")


def build_app(arguments: Sequence[str]) -> "typer.Typer":
    """The command tree. Only the command that is called is imported: the others are there by name, for the help."""
    import typer

    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        name=PROGRAM,
        help="From the crawl to a chat model: every document's fate and every token's origin on record.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=settings,
    )

    def tell_version(asked: bool) -> None:
        if asked:
            from importlib.metadata import version

            typer.echo(f"headwater {version('headwater')}")
            raise typer.Exit

    asked = typer.Option("--version", help="Print the version.", callback=tell_version, is_eager=True)

    @app.callback()
    def everything(version: Annotated[bool, asked] = False) -> None:
        """Keeps a single branch a subcommand, too."""

    typed = _typed_so_far() or arguments
    for name, summary in COMMANDS:
        called = list(typed[:1]) == [name]
        command = importlib.import_module(f"flows.cli.{name}").command if called else lambda: None
        own = {"ignore_unknown_options": True} if name == "bench" else {}
        app.command(name, help=summary, context_settings={**settings, **own})(command)
    return app


def _typed_so_far() -> list[str]:
    """What stands on the shell's line after the program's name, when the shell asks how it may go on."""
    import shlex

    if f"_{PROGRAM.upper()}_COMPLETE" not in os.environ:
        return []
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quotation mark is still open
        return line.split()[1:]


def main() -> None:
    """Entry point of the ``headwater`` script."""
    for stream in ("stdout", "stderr"):  # closed by who called us, as some schedulers do: what is said goes nowhere
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
    os.environ.setdefault(
        "PYTHONSAFEPATH", "1"
    )  # a user's pipeline.py in the working folder is not ours, in no child either
    try:
        code = _run(sys.argv[1:])
    finally:
        # The interpreter looks for garbage among a million objects of torch and others before it ends: a second for nothing.
        gc.freeze()
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Carry out a command line; whatever goes wrong is told in one sentence. Returns the exit code."""
    try:
        return _call(arguments)
    except HeadwaterError as error:
        report_error(error)
        return 1
    except (KeyboardInterrupt, EOFError):
        report_error(INTERRUPTED)
        return INTERRUPTED_CODE
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is wrong, and nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        report_error(describe_os_error(error))
        return 1
    except Exception as error:
        if _interrupted(error):
            report_error(INTERRUPTED)
            return INTERRUPTED_CODE
        missing = missing_package(error)
        if missing is not None:
            report_error(missing)
        else:
            _report_defect(error)
        return 1


def _call(arguments: Sequence[str]) -> int:
    import typer

    # Typer may carry click within itself: its classes are reached through the one that typer names.
    click_error: type[Exception] = typer.BadParameter.__mro__[2]
    try:
        # Not click's own handling of errors: it calls an interruption "Aborted!" and knows no --json.
        app = build_app(arguments)
        result = app(list(arguments) or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        raise KeyboardInterrupt from None
    except click_error as wrong:
        context = getattr(wrong, "ctx", None)
        place = context.command_path if context else ""
        remedy = f"See {place} --help." if place else ""
        sentence = wrong.format_message().rstrip(".")  # type: ignore[attr-defined]
        report_error(HeadwaterError(sentence[:1].lower() + sentence[1:], where=place, remedy=remedy))
        return int(wrong.exit_code)  # type: ignore[attr-defined]
    if result == INTERRUPTED_CODE:  # what Typer makes of Ctrl-C inside a command
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C lies under it: while a class is made, Python 3.11 wraps whatever its attributes raise."""
    cause = error.__cause__
    return cause is not None and (isinstance(cause, KeyboardInterrupt) or _interrupted(cause))


def _report_defect(error: Exception) -> None:
    """What no check foresaw is a defect of ours: where it happened, and for people the whole trace above the sentence."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if "--json" not in sys.argv:
        traceback.print_exception(error)
    report_error(
        HeadwaterError(
            f"{type(error).__name__}: {' '.join(str(error).split())[:500] or 'no message'}",
            where=f"{os.path.basename(last.filename)}, line {last.lineno}",
            remedy="This is a defect of headwater; what was published is safe. Please report it.",
        )
    )


def report_error(error: HeadwaterError) -> None:
    """One sentence for people; with ``--json`` on the command line, one JSON object. Both on stderr."""
    if "--json" in sys.argv:
        sys.stderr.write(json.dumps(error.as_dict()) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    sentence = Text("error: ", style="bold red") if error is not INTERRUPTED else Text()
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence + Text(str(error)))


if __name__ == "__main__":
    main()
