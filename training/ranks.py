"""The group of processes that train together, and one's place in it: started by the launcher, or alone."""

import contextlib
import gc
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore


@dataclass(frozen=True)
class Ranks:
    """This process's place in the group."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def distributed() -> Iterator[Ranks]:
    """Join the group, and leave it in order. A process of several ranks ends by ``infra.job_main.leave``."""
    ranks = init_distributed()
    try:
        yield ranks
        dist.barrier()  # a rank that leaves while another still talks to it aborts that one
    finally:
        dist.destroy_process_group()


def init_distributed() -> Ranks:
    """Join the process group that the launcher's environment describes (none: a group of one)."""
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    rank, world_size = (
        int(os.environ.get("RANK", 0)),
        int(os.environ.get("WORLD_SIZE", 1)),
    )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    # Without LOCAL_SIZE DeepSpeed takes the number of NUMA nodes for the number of devices.
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    import deepspeed  # a second and a half: not before a process really trains

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Otherwise init_distributed compiles a shared-memory extension: minutes, and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        gc.freeze()  # while it builds an engine DeepSpeed collects six times, and looks through all that is loaded by now
        backend = "nccl" if cuda else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:  # started by hand: no rendezvous, no port
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
            os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    return Ranks(rank, world_size, device)
