"""The OpenAI API."""

import time
from typing import Any

from fastapi import APIRouter

from flows.web.site import ServedModel, Site


def router(site: Site) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    started = int(time.time())

    def describe(model: ServedModel) -> dict[str, Any]:
        return {
            "id": model.id,
            "object": "model",
            "created": started,
            "owned_by": "headwater",
            "root": model.dataset,
            "max_model_len": model.context,
        }

    @routes.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(model) for model in site.models.values()]}

    @routes.get("/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        return describe(site.model(name))

    return routes
