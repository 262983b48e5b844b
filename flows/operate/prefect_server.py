"""Prefect's server: closed to strangers, with the workspace's reports, and without its two kinds of waiting for SQLite.

    python -m flows.operate.prefect_server [--host HOST] [--port PORT] …        as ``prefect server start``

Whoever may call its API may run programs here. So it asks for a password (of its home folder, if none is set), answers to
its own name and the pages of its own origin, and what it writes is its owner's alone (``flows.operate.credentials``,
``flows.operate.doors``). The reports (``flows.operate.report_pages``) are behind the same password.
Transactions on SQLite wait their turn (``flows.operate.prefect_internals``).
"""

import argparse
import os
import sys

from prefect.cli import app
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

from flows.operate.credentials import SERVER_AUTH, auth_string, generate_auth, use_auth
from flows.operate.doors import add_doors, allowed_names
from flows.operate.prefect_internals import add_to_server, wait_in_turn
from flows.operate.report_pages import mount_reports
from flows.operate.server import settings

ALLOWED_HOSTS = "HEADWATER_ALLOWED_HOSTS"


def closed_to_strangers(arguments: list[str]) -> frozenset[str] | None:
    """Settings of the server that this process is about to be; the names it answers to, None for any."""
    os.umask(0o077)
    home = get_current_settings().home
    for name, value in settings(home).items():
        os.environ.setdefault(name, value)
    use_auth(os.environ.get(SERVER_AUTH) or auth_string() or generate_auth(home), serving=True)
    refresh_global_settings_context()  # Prefect has read its settings when it was imported
    asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    asked.add_argument("--host", default=get_current_settings().server.api.host)
    return allowed_names(asked.parse_known_args(arguments)[0].host, os.environ.get(ALLOWED_HOSTS, ""))


if __name__ == "__main__":
    names = closed_to_strangers(sys.argv[1:])
    wait_in_turn()
    add_to_server(lambda served: add_doors(mount_reports(served), names))
    sys.argv[1:1] = ["server", "start"]
    app()
