"""``headwater deploy``: work pools, limits, deployments and automations on a server that runs already."""

from typing import Annotated

import typer

from flows.cli.options import (
    JsonOption,
    RecipesOption,
    SetOption,
    WatchOption,
    WorkspaceOption,
    console,
    open_store,
    print_json,
)
from flows.operate.deployments import refuse_relative
from flows.operate.server import await_server, require_server
from flows.recipe import load_recipe
from flows.recipe_file import DEPLOYED


def command(
    recipe: RecipesOption = None,
    set_: SetOption = None,
    watch: WatchOption = None,
    workspace: WorkspaceOption = None,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a server that is being started.")] = 0.0,
    json: JsonOption = False,
) -> None:
    recipes = [load_recipe(name, set_ or ()) for name in recipe or DEPLOYED]
    for each in recipes:
        refuse_relative(each)
    store = open_store(workspace)
    await_server(store, wait)
    require_server(store)
    from flows.operate.automations import (  # Prefect: configured before it is imported
        ensure_automations,
        notification_target,
    )
    from flows.operate.deploying import deploy

    names = deploy(recipes, watch=bool(recipe) if watch is None else watch)
    automations = ensure_automations(notification_target())
    if json:
        print_json({"deployments": names, "automations": [entry.name for entry in automations]})
    else:
        console().print(f"{len(names)} deployments: {', '.join(names)}", markup=False)
