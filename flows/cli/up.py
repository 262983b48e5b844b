"""``headwater up``: Prefect server, workers and all deployments on this machine."""

import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from flows.cli.options import (
    RecipesOption,
    SetOption,
    WatchOption,
    WorkspaceOption,
    console,
    interrupt_on_term,
    open_store,
)
from flows.operate.credentials import auth_place, auth_string
from flows.operate.server import prefect_home
from flows.operate.up import DEFAULT_PORT, HOST, Serving, serve
from infra.errors import MissingPackage


def command(
    recipe: RecipesOption = None,
    set_: SetOption = None,
    watch: WatchOption = None,
    workspace: WorkspaceOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Others than 127.0.0.1 want TLS in front.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server and its UI.")] = DEFAULT_PORT,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWATER_DATABASE_URL",
            help="PostgreSQL URL of the server's database. Default: SQLite below the workspace.",
        ),
    ] = None,
) -> None:
    if find_spec("prefect") is None:  # said first: its extra brings what else is missing
        raise MissingPackage(
            "this needs prefect, which is not installed here", remedy="pip install 'headwater[prefect]'"
        )
    from flows.operate.doors import LOCAL_NAMES, sign_in_link

    interrupt_on_term()
    out = console()
    out.print("Starting the Prefect server. The first start in a workspace takes about half a minute.")
    wanted = Serving(open_store(workspace), tuple(recipe or ()), tuple(set_ or ()), watch, host, port, database_url)

    def say(text: str) -> None:
        out.print(text, markup=False)

    def ready(deployments: list[str]) -> None:
        whole = [name for name in deployments if name.split("/")[0] in ("pipeline", "crawl_watch")]
        say(f"{len(deployments)} deployments: {', '.join(whole)}, and each stage of them")
        say(f"\nPrefect UI   {wanted.ui}")
        say(f"Password     in {auth_place(prefect_home(wanted.store))} (user:password)")
        if sys.stdout.isatty():  # never where it would be kept: a log, a journal
            say(f"Sign in      {sign_in_link(wanted.ui, auth_string() or '')}")
        if host not in LOCAL_NAMES:
            say(f"\nIt listens on {host}, and the password travels unencrypted: put TLS in front of it.")
        say("\nCtrl-C ends server and workers.")

    try:
        serve(wanted, ready=ready, say=say)
    except KeyboardInterrupt:
        out.print("Stopped.")
