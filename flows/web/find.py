"""Where words come from: ``POST /api/find``."""

from threading import Lock
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from flows.provenance.find import DEFAULT, Finder, index_of
from flows.web.site import Site
from infra.errors import NotFound
from infra.store.store import Store

MOST_OPEN = 4


class Question(BaseModel):
    text: str
    dataset: Annotated[str, Field(pattern=r"^(\w[\w.-]*([@/]\w[\w.-]*)?)?$")] = ""
    """An index, or the shards that one was made of. Empty: the newest index."""
    limit: Annotated[int, Field(ge=1, le=100)] = 10


def router(site: Site) -> APIRouter:
    routes = APIRouter(prefix="/api")
    finders = Finders(site.store)

    @routes.post("/find")
    def find(question: Question) -> dict[str, Any]:
        return finders.of(question.dataset).find(question.text, question.limit)

    return routes


class Finders:
    """The indexes that were asked for last, each opened once."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._opened: dict[str, Finder] = {}

    def of(self, address: str) -> Finder:
        dataset = index_of(self._store, address or DEFAULT)
        if not dataset.root.startswith(f"{self._store.address}/datasets/"):
            raise NotFound("there is no such dataset in the workspace", where=address)
        with self._lock:
            finder = self._opened.pop(dataset.root, None) or Finder(self._store, dataset)
            self._opened[dataset.root] = finder
            for stale in list(self._opened)[:-MOST_OPEN]:
                del self._opened[stale]
        return finder
