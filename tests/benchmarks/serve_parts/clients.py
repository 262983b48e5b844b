"""Those who talk to a server: streams side by side, one after the other, and clients that go away at any moment."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

SAMPLING = {"temperature": 0.8, "top_p": 0.95}


@dataclass(frozen=True)
class Talk:
    """One request that was answered: tokens, and seconds to the first of them."""

    tokens: int
    first: float


def request(number: int, tokens: int) -> dict[str, object]:
    """Each with a prompt and a seed of its own; all of one length."""
    message = {"role": "user", "content": f"Tell me something about the number {number}."}
    about = {"messages": [message], "max_tokens": tokens, "seed": number, "ignore_eos": True}
    return about | SAMPLING


async def talk(client: httpx.AsyncClient, body: dict[str, object]) -> Talk:
    started = time.perf_counter()
    first, tokens = 0.0, 0
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", "/v1/chat/completions", json=body | options) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not first and '"content":"' in line and '"content":""' not in line:
                first = time.perf_counter() - started
            if '"choices":[]' in line:
                tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    return Talk(tokens, first)


def connect(address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, timeout=600, limits=httpx.Limits(max_connections=256))


async def rate(address: str, bodies: Sequence[dict[str, object]], together: bool) -> float:
    """Tokens a second."""
    async with connect(address) as client:
        started = time.perf_counter()
        if together:
            talks = await asyncio.gather(*(talk(client, body) for body in bodies))
        else:
            talks = [await talk(client, body) for body in bodies]
        return sum(each.tokens for each in talks) / (time.perf_counter() - started)


async def first_tokens(address: str, bodies: Sequence[dict[str, object]], workers: int) -> list[float]:
    """Seconds to the first token of each request, while ``workers`` of them are always under way."""
    rest = iter(bodies)
    async with connect(address) as client:

        async def work() -> list[float]:
            return [(await talk(client, body)).first for body in rest]

        return [first for each in await asyncio.gather(*(work() for _ in range(workers))) for first in each]


async def vanish(address: str, bodies: Sequence[dict[str, object]], workers: int, seed: int = 0) -> int:
    """Requests whose clients go: at once, while they wait, in the middle, or never. How many were answered whole."""
    host, port = address.removeprefix("http://").split(":")
    patience = random.Random(seed)
    rest = iter(bodies)

    async def one(body: dict[str, object], seconds: float, stream: bool) -> bool:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            content = json.dumps(body | {"stream": stream}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            async with asyncio.timeout(seconds):
                return b"200 OK" in await reader.read()
        except TimeoutError:
            return False
        finally:
            writer.close()

    async def work() -> int:
        answered = 0
        for body in rest:
            seconds = patience.choice([0.0, patience.uniform(0, 0.05), patience.uniform(0, 1), 60])
            answered += await one(body, seconds, patience.random() < 0.7)
        return answered

    return sum(await asyncio.gather(*(work() for _ in range(workers))))
