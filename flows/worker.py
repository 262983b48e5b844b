"""Workers for all work pools of this machine, in one process.

    python -m flows.worker

Each flow run is a process of its own; the workers only poll and start them, so one process serves every pool.
"""

import anyio
from prefect.workers.process import ProcessWorker

from flows.deployments import POOLS


async def serve() -> None:
    async with anyio.create_task_group() as group:
        for pool in POOLS:
            group.start_soon(ProcessWorker(work_pool_name=pool, name=f"{pool}-here").start)


if __name__ == "__main__":
    anyio.run(serve)
