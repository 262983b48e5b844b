"""The frame of every job of ranks: its configuration, one rank's view of its request and its peers, and its end.

    python -m training.pretrain --request FILE      (started by the launcher, one process a rank)

A job ends in one of three ways: its result is written; it was told to stop (SIGTERM) and leaves a checkpoint, to be
started again at once; or it fails with one sentence (``infra.job_main``). All ranks stop at the same step, because they
ask each other.

    JobConfig                 the process group                   pretraining, and every stage of alignment
      TrainingJobConfig       what every training loop is told    those that update weights (``training.loop``)
"""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field

from infra.config import Config, Execution
from infra.job import JobRequest, JobSpec, emit, finish
from infra.job_main import job_main
from infra.store.files import write_json
from training.faults import FaultConfig
from training.metrics import require_wandb
from training.ranks import Ranks, distributed


class JobConfig(Config):
    """The process group of a stage.

    The numbers of ranks and threads are part of the identity: sums taken in another order differ in their last bits.
    """

    ranks: int = Field(default=2, ge=1)
    """Processes, one a device."""
    nodes: int = Field(default=1, ge=1)
    """Machines with ``ranks`` processes each."""
    threads_per_rank: int = Field(default=1, ge=1)
    """CPU threads of a process."""
    elastic_ranks: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Run on this many processes instead of ``ranks`` × ``nodes``; results then agree within rounding. 0: do not."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Decides the first weights, the order of the data and what is sampled."""
    time_limit_s: Annotated[int | None, Execution()] = Field(default=None, ge=0)
    """Wall-clock limit of one attempt in seconds; 0 or none: no limit."""
    stall_limit_s: Annotated[int, Execution()] = Field(default=1800, ge=10)
    """Silence after which the ranks' stacks are dumped and the job is restarted."""

    @property
    def processes(self) -> int:
        """Processes on all machines together."""
        return self.elastic_ranks or self.ranks * self.nodes

    def job_spec(self, module: str) -> JobSpec:
        """The process group that runs ``module``."""
        return JobSpec(
            module,
            ranks=self.elastic_ranks or self.ranks,
            nodes=1 if self.elastic_ranks else self.nodes,
            threads_per_rank=self.threads_per_rank,
            time_limit_s=self.time_limit_s or None,
            stall_limit_s=self.stall_limit_s,
        )


class TrainingJobConfig(JobConfig):
    """A stage that updates weights."""

    faults: FaultConfig = FaultConfig()
    """When an update is skipped, and when the run goes back to a checkpoint."""
    checkpoint_every: Annotated[int, Execution()] = Field(default=100, ge=1)
    """Steps between checkpoints."""
    keep_last: Annotated[int, Execution()] = Field(default=2, ge=1)
    """Newest checkpoints to keep."""
    keep_every: Annotated[int, Execution()] = Field(default=0, ge=0)
    """Keep every checkpoint whose step is a multiple of this as well. 0: none."""
    wandb_project: Annotated[str, Execution()] = ""
    """Weights & Biases project; empty: none."""


class StopSignal:
    """SIGTERM and SIGINT, noted instead of died of while the context is open; looked at between steps."""

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


Settings = TypeVar("Settings", bound=JobConfig)


@dataclass
class Job(Generic[Settings]):
    """One rank of a running stage."""

    request: JobRequest
    config: Settings
    ranks: Ranks
    stop: StopSignal
    stats: dict[str, Any] = field(default_factory=dict)
    """Figures for the manifest."""
    warnings: list[str] = field(default_factory=list)
    """What a user of the published dataset must know, a sentence each."""
    outputs: dict[str, bool] = field(default_factory=dict)
    """The files of the result, as ``infra.job.finish`` wants them: path -> whether it enters the digest."""
    started: float = field(default_factory=time.monotonic)

    def data(self, role: str) -> Path:
        """The ``data`` folder of an input."""
        return self.request.inputs[role].local("data")

    def emit(self, kind: str, **fields: Any) -> None:
        """An event for the runner (``infra.job``); the first rank speaks for all."""
        if self.ranks.first:
            emit(self.request, kind, **fields)

    def progress(self, done: int, total: int, **figures: Any) -> None:
        self.emit("progress", done=done, total=total, **figures)

    def phase(self, name: str) -> None:
        """Announces a long silence."""
        self.emit("phase", name=name)

    def notice(self, sentence: str) -> None:
        """A warning for who watches the run."""
        self.emit("warning", message=sentence)

    def warn(self, sentence: str) -> None:
        """A warning for who watches the run, and for everybody who uses the dataset."""
        self.warnings.append(sentence)
        self.notice(sentence)

    def gather(self, values: Mapping[int, float], number: int) -> np.ndarray:
        """``number`` figures, each known to one rank under its index, completed on all of them: float64 ``[number]``."""
        total = torch.zeros(number, dtype=torch.float64, device=self.ranks.device)
        for index, value in values.items():
            total[index] = value
        dist.all_reduce(total)
        return total.cpu().numpy()

    def reduce(self, total: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, in place."""
        dist.all_reduce(total)
        return total

    def publish_figures(self, file: str, figures: dict[str, Any]) -> None:
        """Figures for the manifest, which also stand by themselves in ``data/FILE``."""
        self.stats |= figures
        self.outputs[f"data/{file}"] = True
        if self.ranks.first:
            write_json(self.request.data_dir / file, figures)

    def finish(self) -> None:
        """Publish the result (rank 0); the other ranks wait for it."""
        if self.ranks.first:
            self.stats["seconds"] = round(time.monotonic() - self.started, 1)
            finish(self.request, self.outputs, self.stats, warnings=self.warnings)
        dist.barrier()


AnyJob = TypeVar("AnyJob", bound=Job[Any])


def run_job(work: Callable[[AnyJob], None], config: type[JobConfig], kind: type[AnyJob]) -> None:
    """A job's main: ``work`` in every rank, on a job of this ``kind`` with a ``config`` read from its request."""
    job_main(lambda request: _run(work, config.model_validate(request.config), kind, request))


def _run(work: Callable[[AnyJob], None], config: JobConfig, kind: type[AnyJob], request: JobRequest) -> None:
    if isinstance(config, TrainingJobConfig):
        require_wandb(config.wandb_project)
    torch.set_num_threads(config.threads_per_rank)
    torch.manual_seed(config.seed)
    with StopSignal() as stop, distributed() as ranks:
        work(kind(request, config, ranks, stop))
