"""The stage as the runner runs it: ``python -m tests.benchmarks.dedup_parts.ours INPUT WORKSPACE CONFIG [WORKERS]``.

Importing is no part of the time, as in the other systems' programs: the process that workers fork from is up before it.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from infra.execution.local import LocalExecutor
from infra.launch.local import LocalLauncher
from infra.progress import PlainReporter
from infra.runner import run_stage
from infra.runs import RunRecord
from infra.stage import StageNode
from infra.store.dataset import Dataset
from infra.store.store import Store
from infra.work import RunContext
from pipeline.dedup import STAGE, DedupConfig


def start_fork_server() -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["infra.execution.worker", STAGE.reference.partition(":")[0]])
    process = context.Process(target=os.getpid)
    process.start()
    process.join()


def main(source: str, workspace: str, config: str, workers: str = "2") -> None:
    settings = DedupConfig.model_validate_json(config)
    store = Store.at(Path(workspace))
    run = RunContext(
        store=store,
        record=RunRecord.start(store, "bench"),
        label="bench",
        executor=LocalExecutor(workers=int(workers), memory_bytes=2 * settings.memory_mb << 20),
        launcher=LocalLauncher(),
        reporter=PlainReporter(every_s=3600.0),
    )
    inputs = {"quality": Dataset.open(source)}
    start_fork_server()
    started = time.perf_counter()
    dataset = run_stage(StageNode(STAGE, settings), inputs, run).dataset
    seconds = time.perf_counter() - started
    counts = dataset.manifest.counts
    answer = {"seconds": seconds, "root": dataset.root, "digest": dataset.digest, "dropped": counts.dropped}
    sys.stdout.write(json.dumps({**answer, "stats": dataset.manifest.stats}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
