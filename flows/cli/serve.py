"""``headwater serve``: chat, the OpenAI API, comparisons, documents and runs, for a browser and for programs."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import LabelOption, WorkspaceOption, console, interrupt_on_term, open_store
from flows.models import MODEL_HELP


def command(
    models: Annotated[list[str] | None, typer.Argument(help=f"{MODEL_HELP} Default: export.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys that open the APIs, one a line.")] = None,
    slots: Annotated[int, typer.Option(min=1, max=1024, help="Replies that a model writes at a time.")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="Replies that may wait for a slot.")] = 64,
    requests_per_second: Annotated[float, typer.Option(min=0.1, help="What one client may ask for long.")] = 100,
    label: LabelOption = "latest",
    workspace: WorkspaceOption = None,
) -> None:
    from flows.web.app import create_app
    from flows.web.listen import read_keys, server, take_socket
    from flows.web.site import ServeSettings, open_site

    interrupt_on_term()
    keys = read_keys(api_key_file) if api_key_file else frozenset()
    settings = ServeSettings(
        host=host,
        port=port,
        names=os.environ.get("HEADWATER_ALLOWED_HOSTS", ""),
        keys=keys,
        slots=slots,
        queue=queue,
        requests_per_second=requests_per_second,
    )
    listener = take_socket(host, port, keys, settings.stall_seconds)
    with listener, open_site(open_store(workspace), models or [], label, settings) as site:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        names = ", ".join(site.models) or "no model"
        console().print(f"Serving {names} at {address}\nOpenAI clients: {address}/v1 (Ctrl-C ends it)", markup=False)
        with contextlib.suppress(KeyboardInterrupt):  # how a server is ended
            server(create_app(site), site).run([listener])
