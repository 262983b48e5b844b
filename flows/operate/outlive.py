"""A flow run goes on when the worker that started it dies.

The worker reads what the run prints from a pipe. Without a reader the next line of the log fails, and rich, with which
Prefect writes it, then ends the process, as suits a command in ``command | head``. Here it loses only its echo: the
server has the log as well.
"""

import os

from rich.console import Console

STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"


def outlive_worker() -> None:
    """Called once the process of a flow run is set up; does nothing in a process that no worker started."""
    if STARTED_BY_WORKER in os.environ:
        Console.on_broken_pipe = _print_no_more  # type: ignore[method-assign, assignment]


def _print_no_more(console: Console) -> None:
    """Both streams, whichever it was: they lead to the same worker."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
