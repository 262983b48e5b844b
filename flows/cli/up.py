"""``headwater up``: Prefect server, workers and all deployments on this machine."""

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
from flows.deployments import DEPLOYED
from flows.recipe import load_recipe
from flows.up import DEFAULT_PORT, serve


def command(
    recipe: RecipesOption = None,
    set_: SetOption = None,
    watch: WatchOption = None,
    workspace: WorkspaceOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server and its UI.")] = DEFAULT_PORT,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWATER_DATABASE_URL",
            help="PostgreSQL URL of the server's database. Default: SQLite below the workspace.",
        ),
    ] = None,
) -> None:
    interrupt_on_term()
    recipes = [load_recipe(name, set_ or ()) for name in recipe or DEPLOYED]
    watching = bool(recipe) if watch is None else watch
    out = console()
    out.print("Starting the Prefect server. The first start in a workspace takes about half a minute.")

    def ready(ui: str, deployments: list[str]) -> None:
        whole = [name for name in deployments if name.split("/")[0] in ("pipeline", "crawl_watch")]
        out.print(f"{len(deployments)} deployments: {', '.join(whole)}, and each stage of them", markup=False)
        out.print(f"\nPrefect UI   {ui}\n\nCtrl-C ends server and workers.", markup=False)

    def say(text: str) -> None:
        out.print(text, markup=False)

    store = open_store(workspace)
    try:
        serve(recipes, store, watch=watching, port=port, database_url=database_url, ready=ready, say=say)
    except KeyboardInterrupt:
        out.print("Stopped.")
