"""``headwater automations``: zombie detection and failure notification on the Prefect server."""

from dataclasses import asdict

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json, table_of
from flows.operate.server import require_server


def command(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    require_server(open_store(workspace))
    from flows.operate.automations import (  # Prefect: configured before it is imported
        ensure_automations,
        notification_target,
    )

    done = ensure_automations(notification_target())
    if json:
        print_json({"automations": [asdict(entry) for entry in done]})
        return
    table = table_of("Automations", "automation", "", "what it does")
    for entry in done:
        table.add_row(entry.name, entry.action, entry.detail)
    console().print(table)
