"""The OpenAI API: models, chat completions, completions."""

import time
from typing import TYPE_CHECKING, Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from flows.web.guard import error_body
from flows.web.openai_replies import ChatReplies, CompletionReplies
from flows.web.openai_requests import ChatAsked, CompletionAsked, ContextOverflow, parse
from flows.web.site import ServedModel, Site
from flows.web.streams import Answers, EventStream, collect
from infra.errors import HeadwaterError, InputError, NotFound

if TYPE_CHECKING:
    from training.replies import Ask


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

    @routes.post("/chat/completions")
    async def chat(request: Request) -> Response:
        def understand(body: bytes) -> "tuple[ChatReplies, list[Ask]]":
            asked: ChatAsked = parse("chat", body)
            model = site.model(asked.model)
            asks = [asked.ask_of(model)]
            return ChatReplies(asked, asks, model), asks

        return await _answer(request, understand)

    @routes.post("/completions")
    async def complete(request: Request) -> Response:
        def understand(body: bytes) -> "tuple[CompletionReplies, list[Ask]]":
            asked: CompletionAsked = parse("completion", body)
            model = site.model(asked.model)
            asks = asked.asks_of(model, site.settings.slots + site.settings.queue)
            return CompletionReplies(asked, asks, model), asks

        return await _answer(request, understand)

    @routes.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def other(path: str, request: Request) -> Response:
        """The page's files lie behind: they would say of any POST that its method is wrong."""
        if path in PATHS:
            sentence = f"/v1/{path} is not asked by {request.method}"
            return _refusal(405, InputError(sentence, where=f"/v1/{path}", remedy=f"Use {PATHS[path]}."))
        here = ", ".join(f"/v1/{path}" for path in PATHS)
        return _refusal(404, InputError("there is no such path here", where=f"/v1/{path}", remedy=f"There are {here}."))

    return routes


PATHS = {"models": "GET", "chat/completions": "POST", "completions": "POST"}


LONG_BODY = 16 << 10
"""A body from which a thread of its own reads and tokenises it: the streams of others must not wait for that."""


async def _answer(request: Request, understand: Any) -> Response:
    """Understand a request, queue it, and answer whole or as a stream."""
    from training.serving import Busy

    body = await request.body()
    try:
        if len(body) < LONG_BODY:
            replies, asks = understand(body)
        else:
            replies, asks = await run_in_threadpool(understand, body)
        answers = Answers()
        answers.submit(replies.model.engine, asks)
    except Busy as busy:
        return _refusal(429, busy, "queue_full", {"Retry-After": str(busy.seconds)})
    except NotFound as error:
        return _refusal(404, error, "model_not_found")
    except ContextOverflow as error:
        return _refusal(400, error, "context_length_exceeded")
    except InputError as error:
        return _refusal(400, error)
    except HeadwaterError as error:  # it is closing
        return _refusal(503, error)
    number = len(replies.choices)
    if replies.asked.stream:
        return EventStream(answers, number, replies.render, replies.first(), replies.last)
    whole = replies.whole(await collect(answers, number, request.receive))
    if replies.error:
        return JSONResponse(error_body("/v1/", 500, replies.error), 500)
    return JSONResponse(whole)


def _refusal(
    status: int, error: HeadwaterError, code: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    body = error_body("/v1/", status, error.error, where=error.where, remedy=error.remedy, code=code)
    return JSONResponse(cast(Any, body), status, headers)
