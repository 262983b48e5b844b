"""``headwater bench serve``: what a model that is served does under load, on this machine, through HTTP.

    ratio_batched       tokens a second of 16 streams side by side over those of the same 16 one after the other; the median
                        of rounds in which the two take turns (the machine may have other work)
    ratio_transformers  tokens a second of the 16 streams over those of ``transformers.generate`` behind FastAPI, given the
                        same 16 requests side by side: the same model exported, the same sampling, the better of one
                        thread and all
    ttft_p95_ms         time to the first token, 95th percentile, with 16 requests always under way
    leaked              rows, queued replies, tasks and connections left after 1,000 requests whose clients go at any moment
    find_ms …           looking for words in a hundred million tokens: ``tests/benchmarks/serve_parts/words.py``

The model is one of a workspace in which a recipe has run (``headwater run demo``), or a folder. A run at full size writes its
section of ``docs/benchmarks.md``.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from flows.context import open_store
from flows.models import model_folder
from infra.errors import HeadwaterError
from tests.benchmarks.page import table, write_section
from tests.benchmarks.serve_parts.clients import first_tokens, rate, request, vanish
from tests.benchmarks.serve_parts.words import measure as find_words
from tests.flows.cluster import free_port
from tests.support import REPOSITORY

STREAMS = 16
TOKENS, ROUNDS, REQUESTS, INDEXED = 64, 3, 1000, 100_000_000


def run(
    workspace: str = "workspace",
    model: str = "export",
    tokens: int = TOKENS,
    rounds: int = ROUNDS,
    requests: int = REQUESTS,
    indexed: int = INDEXED,
) -> dict[str, Any]:
    """``indexed``: tokens in which words are looked for; 0 leaves that out. Others than the defaults leave the page as it is."""
    store = open_store(workspace)
    with model_folder(store, model) as folder, TemporaryDirectory(prefix="headwater-serve-") as scratch:
        with served(str(folder), Path(scratch)) as address:
            found = asyncio.run(measure(address, tokens, rounds, requests))
        peers = {}
        for threads in sorted({1, os.cpu_count() or 1}):
            with peer(folder, threads) as address:
                peers[threads] = asyncio.run(peer_rate(address, tokens))
    words = {}
    if indexed:
        with TemporaryDirectory(prefix="headwater-find-") as scratch:
            words = find_words(store, indexed, Path(scratch))
    best = max(peers.values())
    together = [each["together"] for each in found["rounds"]]
    figures = {
        "ratio_batched": round(median(each["together"] / each["one_by_one"] for each in found["rounds"]), 2),
        "ratio_transformers": round(median(together) / best, 2),
        "ttft_p95_ms": round(1000 * quantiles(found["first"], n=20)[-1], 1),
        "leaked": found["leaked"],
        "tokens_per_second": round(median(together), 1),
        "tokens_per_second_transformers": round(best, 1),
        "answered_whole": found["answered"],
        **words,
    }
    if (tokens, rounds, requests, indexed) == (TOKENS, ROUNDS, REQUESTS, INDEXED):
        write_section("serve", "headwater bench serve", tables(figures, found["rounds"], peers))
    return {"figures": figures, "rows": found["rounds"], "peers": peers, "left": found["left"]}


def tables(figures: dict[str, Any], rounds: list[dict[str, float]], peers: dict[int, float]) -> list[str]:
    rates = [
        {"streams": f"16, round {number}", "one after the other": each["one_by_one"], "side by side": each["together"]}
        for number, each in enumerate(rounds, 1)
    ]
    rates += [
        {"streams": f"16, transformers.generate, threads: {threads}", "side by side": rate}
        for threads, rate in peers.items()
    ]
    return [
        "Tokens a second through HTTP, and the figures; words are looked for in generated tokens, from a cold disk.",
        table(("streams", "one after the other", "side by side"), rates),
        table(("figure", "value"), [{"figure": name, "value": value} for name, value in figures.items()]),
    ]


async def measure(address: str, tokens: int, rounds: int, requests: int) -> dict[str, Any]:
    bodies = [request(number, tokens) for number in range(STREAMS)]
    await rate(address, bodies[:2], together=True)  # what the first request loads is not measured
    found: dict[str, Any] = {"rounds": []}
    for _ in range(rounds):
        alone = await rate(address, bodies, together=False)
        found["rounds"].append({"one_by_one": alone, "together": await rate(address, bodies, together=True)})
    many = [request(number, tokens) for number in range(5 * STREAMS)]
    found["first"] = await first_tokens(address, many, STREAMS)
    before = await settled(address)
    shorter = [request(number, 1 + number % tokens) for number in range(requests)]
    found["answered"] = await vanish(address, shorter, 4 * STREAMS)
    after = await settled(address)
    found["left"] = {"before": before, "after": after}
    found["leaked"] = sum(max(0, after[name] - before[name]) for name in after)
    return found


async def settled(address: str) -> dict[str, int]:
    """What the server holds once nobody asks anything of it; it has some seconds to notice."""
    async with httpx.AsyncClient(base_url=address, headers={"Connection": "close"}) as client:
        load: dict[str, int] = {}
        for _ in range(40):
            load = (await client.get("/api/load")).json()
            if not load["writing"] and not load["open"]:
                break
            await asyncio.sleep(0.25)
        await asyncio.sleep(1)
        return dict((await client.get("/api/load")).json())


async def peer_rate(address: str, tokens: int) -> float:
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:

        async def one(number: int) -> int:
            return int((await client.post("/generate", json=request(number, tokens))).json()["tokens"])

        await one(0)
        started = time.perf_counter()
        made = await asyncio.gather(*(one(number) for number in range(STREAMS)))
        return sum(made) / (time.perf_counter() - started)


@contextmanager
def served(model: str, scratch: Path) -> Iterator[str]:
    port = free_port()
    words = ["-m", "flows.cli.main", "serve", model, "--port", str(port), "--workspace", str(scratch)]
    with _process(words, port, "/healthz") as address:
        yield address


@contextmanager
def peer(folder: Path, threads: int) -> Iterator[str]:
    port = free_port()
    words = ["-m", "tests.benchmarks.serve_parts.peer", str(folder), str(port), str(threads)]
    with _process(words, port, "/docs") as address:
        yield address


@contextmanager
def _process(words: list[str], port: int, path: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, *words], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                httpx.get(address + path).raise_for_status()
                break
            except httpx.HTTPError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise HeadwaterError("a server to measure did not start", where=" ".join(words)) from error
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)
