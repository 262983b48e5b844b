"""``headwater automations``: zombie detection and failure notification on the Prefect server."""

from dataclasses import asdict

from rich.table import Table

from flows.cli.options import JsonOption, WorkspaceOption, console, open_store, print_json
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
    table = Table(title="Automations", title_justify="left", box=None, pad_edge=False)
    for heading in ("automation", "", "what it does"):
        table.add_column(heading)
    for entry in done:
        table.add_row(entry.name, entry.action, entry.detail)
    console().print(table)
