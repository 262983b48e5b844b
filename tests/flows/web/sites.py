"""A site over a workspace and small models, for the tests of what is served."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from flows.web.app import create_app
from flows.web.listen import server, take_socket
from flows.web.site import ServedModel, ServeSettings, Site
from infra.store.store import Store
from tests.training.folders import TEMPLATE, tiny_model, write_tokenizer
from training.hub_format import save_model
from training.serving import Engine
from training.text_model import load_text_model


def empty_site(folder: Path, **settings: Any) -> Site:
    """No model, nothing published."""
    return Site(Store.at(folder), {}, ServeSettings(**settings))


@contextlib.contextmanager
def site_with_models(folder: Path, models: Mapping[str, str | None], **settings: Any) -> Iterator[Site]:
    """Tiny models of different weights by name, each with a chat template or without."""
    made = ServeSettings(**settings)
    tokenizer = write_tokenizer(folder / "tokenizer")
    served = {}
    for seed, (name, template) in enumerate(models.items()):
        decoder = tiny_model(seed, init_std=0.1, max_position=256)
        save_model(decoder, folder / name, tokenizer)
        engine = Engine(load_text_model(folder / name), slots=made.slots, queue=made.queue, name=name)
        served[name] = ServedModel(name, "", str(folder / name), engine, template)
    try:
        yield Site(Store.at(folder / "workspace"), served, made)
    finally:
        for model in served.values():
            model.engine.close()


@contextlib.contextmanager
def running(site: Site) -> Iterator[str]:
    """The site behind a real server on a free port; its address."""
    settings = site.settings
    with take_socket("127.0.0.1", 0, settings.keys, settings.stall_seconds) as listener:
        answering: uvicorn.Server = server(create_app(site), site)
        thread = threading.Thread(target=answering.run, args=([listener],), daemon=True)
        thread.start()
        while not answering.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        answering.should_exit = True
        thread.join()


def client_of(site: Site, **options: Any) -> TestClient:
    """A client on this machine."""
    return TestClient(create_app(site), base_url="http://127.0.0.1:8000", raise_server_exceptions=False, **options)


def two_models() -> dict[str, str | None]:
    """One that chats and one that does not."""
    return {"chatty": TEMPLATE, "plain": None}


def ask(client: TestClient, path: str, **parameters: Any) -> Any:
    answer = client.get(f"/api/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()
