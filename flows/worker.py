"""Workers for work pools, in one process.

    python -m flows.worker [POOL...]        all pools if none is named

In a pool of kind ``process`` each flow run is a process of its own on this machine; in one of kind ``docker``, a
container. The workers only poll and start them, so one process serves any number of pools. While all of them poll, the
file that ``HEADWATER_HEALTH`` names is touched (see ``flows.health``).

A worker hears of a run that is to be cancelled by a websocket, and polls when that breaks; after three polls without an answer
Prefect gives up for good, and a run that outlived a minute without the network could not be cancelled any more. Here it
goes on asking.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import anyio
from prefect._internal import observers
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.utilities.services import critical_service_loop
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker

from flows.deployments import POOLS
from flows.health import VARIABLE

BEAT_S = 10.0
POLL_WINDOW_S = 90.0
"""A worker polls every 10 s, and less often while the server does not answer."""

log = logging.getLogger("headwater")


async def ask_on(*arguments: Any, **options: Any) -> None:
    """``critical_service_loop`` without an end."""
    while True:
        try:
            return await critical_service_loop(*arguments, **{**options, "printer": lambda *text: None})
        except RuntimeError:  # its error threshold
            log.warning("the server does not answer: nothing can be cancelled until it does")


async def serve(pools: list[str]) -> None:
    observers.critical_service_loop = ask_on  # type: ignore[attr-defined]
    workers = [await worker_of(pool) for pool in pools]
    async with anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker.start)
        if os.environ.get(VARIABLE):
            group.start_soon(_beat, workers, Path(os.environ[VARIABLE]))


async def worker_of(pool: str) -> BaseWorker[Any, Any, Any]:
    """The worker that fits the pool's kind on the server."""
    name = f"{pool}-here"
    if await _kind(pool) == "docker":
        from flows.stage_containers import StageContainers  # an optional package

        return StageContainers(work_pool_name=pool, name=name)
    return ProcessWorker(work_pool_name=pool, name=name)


async def _kind(pool: str) -> str:
    async with get_client() as client:
        try:
            return (await client.read_work_pool(pool)).type
        except ObjectNotFound:
            return "process"


async def _beat(workers: list[BaseWorker[Any, Any, Any]], file: Path) -> None:
    while True:
        # Prefect multiplies what it is given by 30.
        if all(worker.is_worker_still_polling(query_interval_seconds=POLL_WINDOW_S / 30) for worker in workers):
            file.touch()
        await anyio.sleep(BEAT_S)


if __name__ == "__main__":
    anyio.run(serve, sys.argv[1:] or list(POOLS))
