"""Workers for work pools, in one process.

    python -m flows.operate.worker [POOL...]        all pools if none is named

In a pool of kind ``process`` each flow run is a process of its own on this machine; in one of kind ``docker``, a
container. The workers only poll and start them, so one process serves any number of pools. While all of them poll, the
file that ``HEADWATER_HEALTH`` names is touched (see ``flows.operate.health``).

A worker takes the runs of our own deployments and refuses all others (``flows.operate.refusals``). One that died while it
was handing a run to a process costs nothing: the next worker, of this machine or another, finds the run
(``flows.operate.lost_runs``).
"""

import logging
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import refresh_global_settings_context
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker

from flows.operate.deployments import POOLS
from flows.operate.health import VARIABLE
from flows.operate.lost_runs import LOOK_S, Claim, hand_back
from flows.operate.prefect_internals import poll_without_end
from flows.operate.refusals import refusal
from flows.operate.server import configure, known_server
from infra.errors import ConfigError, HeadwaterError
from infra.store.store import Store

BEAT_S = 10.0
POLL_WINDOW_S = 90.0
"""A worker polls every 10 s, and less often while the server does not answer."""

log = logging.getLogger("headwater")


async def serve(pools: list[str]) -> None:
    """Poll all pools until told to stop."""
    poll_without_end()
    workers = [await worker_of(pool) for pool in pools]
    async with anyio.create_task_group() as group:
        group.start_soon(_look_for_lost_runs, pools)
        for worker in workers:
            group.start_soon(worker.start)
        if os.environ.get(VARIABLE):
            group.start_soon(_touch_while_polling, workers, Path(os.environ[VARIABLE]))


async def worker_of(pool: str) -> BaseWorker[Any, Any, Any]:
    """The worker that fits the pool's kind on the server. It bears its machine's name: the server tells them apart by it."""
    name = f"{pool}-{socket.gethostname()}"
    if await _kind(pool) == "docker":
        from flows.operate.containers import StageContainers  # an optional package

        return refusing(StageContainers)(work_pool_name=pool, name=name)
    return refusing(ProcessWorker)(work_pool_name=pool, name=name)


def refusing(kind: type[BaseWorker[Any, Any, Any]]) -> type[BaseWorker[Any, Any, Any]]:
    """A worker of this kind that refuses what is not ours (``flows.operate.refusals``), and writes down what it takes before
    it does (``flows.operate.lost_runs``)."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Prefect warns of every second worker of one kind

        class Refusing(kind):  # type: ignore[valid-type, misc]
            async def _submit_run(self, flow_run: FlowRun) -> None:
                sentence = await self._refusal(flow_run)
                if sentence is None:
                    await self.client.update_flow_run_labels(flow_run.id, Claim.mine(self.name).labels)
                    await super()._submit_run(flow_run)
                    return
                log.warning("%s: %s", flow_run.name, sentence)
                await self.client.set_flow_run_state(flow_run.id, Failed(message=sentence), force=True)
                self._release_limit_slot(flow_run.id)
                self._submitting_flow_run_ids.remove(flow_run.id)
                if self._cancelling_observer is not None:
                    self._cancelling_observer.remove_in_flight_flow_run_id(flow_run.id)

            async def _refusal(self, flow_run: FlowRun) -> str | None:
                try:
                    found = flow_run.deployment_id and await self.client.read_deployment(flow_run.deployment_id)
                except ObjectNotFound:
                    return None  # Prefect itself cancels a run whose deployment is gone
                return refusal(flow_run, found or None, self.type)

    return Refusing


async def _look_for_lost_runs(pools: list[str]) -> None:
    while True:
        try:
            for name in await anyio.to_thread.run_sync(hand_back, pools):
                log.warning("%s lost its worker, and is run again", name)
        except (httpx.HTTPError, ObjectNotFound) as error:  # the server is away, or has no such pool yet
            log.info("lost runs could not be looked for: %s", error)
        await anyio.sleep(LOOK_S)


async def _kind(pool: str) -> str:
    async with get_client() as client:
        try:
            return (await client.read_work_pool(pool)).type
        except ObjectNotFound:
            return "process"


async def _touch_while_polling(workers: list[BaseWorker[Any, Any, Any]], file: Path) -> None:
    while True:
        # Prefect multiplies what it is given by 30.
        if all(worker.is_worker_still_polling(query_interval_seconds=POLL_WINDOW_S / 30) for worker in workers):
            file.touch()
        await anyio.sleep(BEAT_S)


def main(pools: list[str]) -> None:
    unknown = sorted(set(pools) - set(POOLS))
    if unknown:
        raise ConfigError(f"there is no work pool {unknown[0]!r}", remedy=f"Pools: {', '.join(POOLS)}.")
    store = Store.at(os.environ.get("HEADWATER_HOME") or "workspace")
    address = known_server(store)
    if address is None:
        raise ConfigError(
            "no Prefect server is known here",
            where=store.address,
            remedy="Name it in PREFECT_API_URL, or headwater up.",
        )
    configure(store, address)
    refresh_global_settings_context()  # Prefect has read its settings when it was imported
    anyio.run(serve, pools or list(POOLS))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HeadwaterError as error:
        sys.exit(str(error))
