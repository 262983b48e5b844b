"""A site over a workspace and small models, for the tests of what is served."""

from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from flows.web.app import create_app
from flows.web.site import ServeSettings, Site
from infra.store.store import Store


def empty_site(folder: Path, **settings: Any) -> Site:
    """No model, nothing published."""
    return Site(Store.at(folder), {}, ServeSettings(**settings))


def client_of(site: Site, **options: Any) -> TestClient:
    """A client on this machine."""
    return TestClient(create_app(site), base_url="http://127.0.0.1:8000", raise_server_exceptions=False, **options)
