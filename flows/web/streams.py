"""From an engine's thread to a client: pieces of text, and the news that nobody waits for them any more.

An engine hands its pieces on without waiting; here they lie until the event loop comes for them, many at a time. A client
that goes cancels its request. One that stops reading is cut off by the kernel (``flows.web.listen``) and has gone then.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from training.replies import Ask, Piece, PromptRead, Ticket
    from training.serving import Engine


@dataclass(eq=False)
class Answers:
    """The answers to one client's requests, as they come: ``(place of the request, piece)``."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _tickets: "list[Ticket]" = field(default_factory=list)
    _pieces: "deque[tuple[int, Piece | PromptRead]]" = field(default_factory=deque)
    _come: asyncio.Event = field(default_factory=asyncio.Event)
    _called: bool = False
    gone: bool = False

    def submit(self, engine: "Engine", asks: "Sequence[Ask]") -> None:
        """Queue all of them, or none."""
        try:
            for place, ask in enumerate(asks):
                self._tickets.append(engine.submit(ask, self._sink(place)))
        except BaseException:
            self.cancel()
            raise

    def _sink(self, place: int) -> "Callable[[Piece | PromptRead], None]":
        def put(piece: "Piece | PromptRead") -> None:
            self._pieces.append((place, piece))
            if not self._called:  # the loop has not been told since it last came for pieces
                self._called = True
                try:
                    self.loop.call_soon_threadsafe(self._come.set)
                except RuntimeError:  # it is closed: the server has ended, and with it every client's wait
                    self.gone = True

        return put

    def cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    async def batches(self, replies: int) -> "AsyncIterator[list[tuple[int, Piece | PromptRead]]]":
        """What has come since the last time, until so many replies are complete or the client has gone."""
        while replies and not self.gone:
            await self._come.wait()
            self._come.clear()
            self._called = False
            some = [self._pieces.popleft() for _ in range(len(self._pieces))]
            replies -= sum(getattr(piece, "finish", None) is not None for _, piece in some)
            if some and not self.gone:
                yield some

    async def watch(self, receive: Receive) -> None:
        """Cancel when the client goes."""
        while (await receive())["type"] != "http.disconnect":
            continue
        self.gone = True
        self.cancel()
        self._come.set()


async def collect(answers: Answers, replies: int, receive: Receive) -> "list[tuple[int, Piece | PromptRead]]":
    """All pieces at once; what there is of them when the client goes."""
    watcher = asyncio.create_task(answers.watch(receive))
    try:
        return [piece async for some in answers.batches(replies) for piece in some]
    finally:
        watcher.cancel()
        answers.cancel()


class EventStream(Response):
    """Server-sent events, each rendered as its pieces come."""

    media_type = "text/event-stream"

    def __init__(
        self,
        answers: Answers,
        replies: int,
        chunks: "Callable[[int, Piece | PromptRead], Iterable[bytes]]",
        first: Iterable[bytes] = (),
        last: Callable[[], Iterable[bytes]] = tuple,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.answers, self.replies = answers, replies
        self.chunks, self.first, self.last = chunks, first, last
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self.answers.watch(receive))

        async def write(events: Iterable[bytes], more: bool = True) -> None:
            if (body := b"".join(events)) or not more:
                await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await write(self.first)
            async for some in self.answers.batches(self.replies):
                await write(event for place, piece in some for event in self.chunks(place, piece))
            await write([*self.last(), b"data: [DONE]\n\n"], more=False)
        finally:
            watcher.cancel()
            self.answers.cancel()


def event(value: Any) -> bytes:
    """One event with a JSON object."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
