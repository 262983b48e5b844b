"""The application: every router, errors as one sentence, and the page.

    /v1/…     the OpenAI API                    flows.web.openai
    /api/…    what the page asks                one router a tab
    /         the page: static files of the package

Text of documents and models leaves as JSON strings only; the page writes it as text, never as HTML.
"""

import asyncio
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from alignment.votes.log import LOG, votes_folder
from flows.stages import keeps_fates
from flows.web import compare, documents, find, openai, runs
from flows.web.guard import ANNOTATOR_HEADER, Guard, error_body
from flows.web.site import Site
from infra.errors import ConfigError, HeadwaterError, InputError, NotFound

STATIC = Path(__file__).parent / "static"
ROUTERS: Sequence[Callable[[Site], APIRouter]] = (
    openai.router,
    compare.router,
    documents.router,
    find.router,
    runs.router,
)


def create_app(site: Site) -> FastAPI:
    """The application for a site. What does not exist is raised as ``NotFound``, other bad input as ``InputError``."""
    app = FastAPI(title="Headwater", version=version("headwater"), docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, site=site)
    app.add_exception_handler(HeadwaterError, _headwater_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.include_router(_site_router(site))
    for make in ROUTERS:
        app.include_router(make(site))
    if STATIC.is_dir():
        app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _site_router(site: Site) -> APIRouter:
    router = APIRouter()

    @router.get("/api/site")
    def describe(request: Request) -> dict[str, Any]:
        if site.annotator(request.headers.get(ANNOTATOR_HEADER, "")) is not None:
            # Blind: an annotator is not told which models there are.
            return {"version": version("headwater"), "models": [], "tabs": {"compare": True}, "needs_key": False}
        return {
            "workspace": site.store.address,
            "version": version("headwater"),
            "models": [
                {
                    "id": model.id,
                    "chat": model.template is not None,
                    "context": model.context,
                    "stage": model.stage,
                    "dataset": model.dataset,
                }
                for model in site.models.values()
            ],
            "tabs": _tabs(site),
            "needs_key": bool(site.settings.keys),
        }

    @router.get("/api/load")
    async def load() -> dict[str, int]:
        """What is held for clients now: rows being written, replies asked for, tasks and connections of the server."""
        loads = [model.engine.load for model in site.models.values()]
        connections = [c for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
        return {
            "writing": sum(each["writing"] for each in loads),
            "open": sum(each["open"] for each in loads),
            "tasks": len(asyncio.all_tasks()),
            "connections": len(connections),
        }

    @router.get("/healthz")
    def healthy() -> dict[str, str]:
        return {"status": "ok"}

    return router


def _tabs(site: Site) -> dict[str, Any]:
    """Which tabs have something to show, and why not."""
    names = set(site.store.names())
    documents = any(keeps_fates(dataset) for name in names for dataset in site.store.datasets(name))
    talks = any(model.template is not None for model in site.models.values())
    reasons = {
        "chat": "" if site.models else "No model is served: name one after `headwater serve`.",
        "find": "" if "index" in names else "There is no index yet: run the stage `index`.",
        "compare": "" if talks or (votes_folder(site.store) / LOG).is_file() else "No model that chats is served.",
        "documents": "" if documents else "No documents are published here yet.",
        "runs": "",
    }
    return {tab: not why for tab, why in reasons.items()} | {
        "why_not": {tab: why for tab, why in reasons.items() if why}
    }


def _headwater_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HeadwaterError)
    status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, (ConfigError, InputError)) else 500
    body = error_body(request.url.path, status, error.error, where=error.where, remedy=error.remedy)
    return JSONResponse(body, status)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = error_body(request.url.path, error.status_code, str(error.detail), where=request.url.path)
    return JSONResponse(body, error.status_code, error.headers)


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse(error_body(request.url.path, 400, str(first["msg"]), where=where), 400)
