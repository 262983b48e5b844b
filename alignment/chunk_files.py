"""Work in numbered chunks, each result a file: a killed job does only what is missing, and ranks share the chunks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from alignment.job import ModelJob
from alignment.order import chunks, share
from infra.job_main import Preempted
from infra.store.files import read_json, write_json


def in_chunks(job: ModelJob[Any], number: int, size: int, make: Callable[[int, range], list[Any]]) -> list[Any]:
    """What ``make(chunk, places)`` gives for each of ``number`` places, in their order; on the first rank alone."""
    missing = [part for part in chunks(number, size) if not _file(job, part[0]).exists()]
    # Every rank must have looked before any writes, or they would share different lists.
    dist.barrier()
    for done, (chunk, places) in enumerate(share(missing, job.ranks.rank, job.ranks.world_size), start=1):
        write_json(_file(job, chunk), make(chunk, places))
        job.progress(min(len(missing), done * job.ranks.world_size), len(missing))
        if job.stop.received:
            raise Preempted
    dist.barrier()
    if not job.ranks.first:
        return []
    return [each for chunk, _ in chunks(number, size) for each in read_json(_file(job, chunk))]


def _file(job: ModelJob[Any], chunk: int) -> Path:
    return job.request.work_dir / "chunks" / f"chunk-{chunk:06d}.json"
