"""Compare: two answers side by side, and which one a person prefers. Everything about it is in ``alignment.votes``.

An annotator is known by the token of their link (``X-Annotator``). Who has a key of the server, or reaches one without keys
on this machine while nobody was given a link, votes under a name they choose (the same header, percent-encoded).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from alignment.forms import messages_to_json
from alignment.turns import Message
from alignment.votes.annotators import Annotators, checked_name
from alignment.votes.compare import Choice, Comparing, Contender
from alignment.votes.log import LOG, VoteLog
from alignment.votes.study import guidelines, load_study, read_prompts, roles
from flows.web.site import Site
from infra.errors import HeadwaterError, InputError

UNNAMED = "me"
PATIENCE = 60
"""Times that a busy model is asked again for an answer to be compared."""


class VoteBody(BaseModel):
    pair: str = Field(max_length=64)
    winner: Choice
    seconds: float = Field(ge=0, le=86400, allow_inf_nan=False)


class PromptBody(BaseModel):
    text: str


def open_comparing(site: Site) -> Comparing:
    """The workspace's study, answered by the models that chat. Raises InputError where another server has its log."""
    folder = site.votes_folder
    study = load_study(folder)
    inputs = {role: site.store.resolve(name) for role, name in roles(study).items()}
    prompts = read_prompts(study, inputs)

    def answer(name: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
        return answer_of(site, name, messages, sampling)

    return Comparing(VoteLog(folder / LOG), study, prompts, contenders_of(site), answer)


def contenders_of(site: Site) -> list[Contender]:
    return [Contender(model.id, model.dataset) for model in site.models.values() if model.template is not None]


def answer_of(site: Site, name: str, messages: Sequence[Message], sampling: Mapping[str, Any]) -> str:
    """A served model's answer. Raises InputError where the prompt leaves no room for one."""
    from training.generate import Sampling
    from training.replies import Ask
    from training.serving import Busy, answer

    served = site.model(name)
    assert served.template is not None
    ids = served.model.chat_format(served.template).ids(messages_to_json(messages))
    room = served.context - len(ids)
    if room < 1:
        raise InputError(f"the prompt takes {len(ids)} tokens; {name} has room for {served.context}")
    drawn = Sampling(
        max_new_tokens=min(sampling["max_tokens"], room),
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        seed=sampling["seed"],
    )
    for _ in range(PATIENCE):
        try:
            reply = answer(served.engine, Ask(tuple(ids), drawn))[0]
        except Busy as busy:  # those who chat go first
            time.sleep(min(busy.seconds, 5))
            continue
        if reply.finish == "cancelled":
            raise HeadwaterError("the server is closing")
        return reply.text
    raise HeadwaterError("the model has been busy for minutes", remedy="Ask again later.")


class Opened:
    """The study, opened when somebody first asks: a server that nobody compares with takes no log for itself."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = Lock()
        self._comparing: Comparing | None = None

    def get(self) -> Comparing:
        with self._lock:
            if self._comparing is None:
                self._comparing = open_comparing(self._site)
            return self._comparing

    def close(self) -> None:
        with self._lock:
            if self._comparing is not None:
                self._comparing.close()
                self._comparing = None


def who_asks(site: Site) -> Callable[..., str]:
    """The annotator of a request, as a dependency."""
    annotators = Annotators(site.votes_folder)

    def annotator(x_annotator: Annotated[str, Header()] = "") -> str:
        if x_annotator and (name := annotators.name_of(x_annotator)) is not None:
            return name
        # With keys, who has no annotator's token has passed with a key.
        if site.settings.keys or not annotators.all():
            name = checked_name(unquote(x_annotator) or UNNAMED)
            if not annotators.has(name):
                return name
        raise HTTPException(401, "this is no annotator's link: ask for one of your own")

    return annotator


def router(site: Site) -> APIRouter:
    opened = Opened(site)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(opened.close)

    routes = APIRouter(prefix="/api/compare", lifespan=life)
    annotator = Annotated[str, Depends(who_asks(site))]

    def state(comparing: Comparing, name: str) -> dict[str, Any]:
        return {"progress": comparing.progress(name), "annotator": name}

    @routes.get("/next")
    async def following(name: annotator) -> Any:  # type: ignore[valid-type]
        comparing = await run_in_threadpool(opened.get)
        # Answers are waited for here and not in a thread: fifty who wait must not keep others from voting.
        while isinstance(found := await run_in_threadpool(comparing.offer, name), Future):
            await asyncio.shield(asyncio.wrap_future(found))
        if found is None:
            return Response(status_code=204)
        shown = {"pair": comparing.view(found), "guidelines": guidelines(site.votes_folder)}
        return shown | await run_in_threadpool(state, comparing, name)

    @routes.post("/vote")
    def vote(body: VoteBody, name: annotator) -> dict[str, Any]:  # type: ignore[valid-type]
        comparing = opened.get()
        cast, replaced = comparing.vote(name, body.pair, body.winner, body.seconds)
        told = {"pair": body.pair, "winner": body.winner, "when": cast.when, "replaced": replaced}
        return {"vote": told} | state(comparing, name)

    @routes.post("/undo")
    def undo(name: annotator) -> dict[str, Any]:  # type: ignore[valid-type]
        comparing = opened.get()
        return {"pair": comparing.view(comparing.undo(name))} | state(comparing, name)

    @routes.post("/prompt")
    def prompt(body: PromptBody, name: annotator) -> dict[str, Any]:  # type: ignore[valid-type]
        comparing = opened.get()
        comparing.add_prompt(name, body.text)
        return state(comparing, name)

    @routes.get("/board")
    def board() -> dict[str, Any]:
        return opened.get().board()

    return routes
