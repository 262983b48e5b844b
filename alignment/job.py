"""The frame of every alignment job: one rank's view of its request, its peers and its end.

    python -m alignment.sft --request FILE          (started by torchrun, one process a rank)

A job ends in one of three ways: its result is written; it was told to stop (SIGTERM) and leaves a checkpoint, to be
started again at once; or it fails with one sentence (``infra.job_main``). All ranks stop at the same step, because they
ask each other.
"""

import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from alignment.conversations import check_special_tokens, stop_ids
from alignment.settings import JobConfig
from alignment.template_chat import chat_tokenizer
from alignment.turns import AnyTokenizer, Templated
from infra.job import JobRequest, emit, finish
from infra.job_main import Preempted, job_main
from infra.store.files import sha256_file
from training.engine import Ranks, distributed

Settings = TypeVar("Settings", bound=JobConfig)


class StopSignal:
    """Set by SIGTERM; looked at between steps."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


@dataclass
class Job(Generic[Settings]):
    """One rank of a running stage."""

    request: JobRequest
    config: Settings
    ranks: Ranks
    tokenizer: AnyTokenizer
    stop: StopSignal
    stats: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    """What a user of the published dataset must know, a sentence each."""
    started: float = field(default_factory=time.monotonic)

    @property
    def model_folder(self) -> Path:
        """The model that the stage starts from; its tokenizer is the one all text is written in."""
        return model_folder(self.request, self.config)

    @property
    def tokenizer_digest(self) -> str:
        """Of the model folder's tokenizer: what stored tokens belong to."""
        return sha256_file(self.model_folder / "tokenizer.json")

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply."""
        return tuple(stop_ids(self.tokenizer))

    def data(self, role: str) -> Path:
        """The ``data`` folder of an input."""
        return self.request.inputs[role].local("data")

    def emit(self, kind: str, **fields: Any) -> None:
        if self.ranks.first:
            emit(self.request, kind, **fields)

    def progress(self, done: int, total: int, **figures: float) -> None:
        self.emit("progress", done=done, total=total, **figures)

    def warn(self, sentence: str) -> None:
        """Say it now, and to everybody who uses the dataset."""
        self.warnings.append(sentence)
        self.emit("warning", message=sentence)

    def phase(self, name: str) -> None:
        self.emit("phase", name=name)

    def leave_if_told(self, save: Callable[[], None]) -> None:
        """Save and leave, on every rank at once, if any of them was told to stop."""
        told = torch.tensor(float(self.stop.received), device=self.ranks.device)
        dist.all_reduce(told)
        if told.item() > 0:
            save()
            raise Preempted

    def together(self, values: Mapping[int, float], number: int) -> np.ndarray:
        """``number`` figures, each known to one rank, completed on all of them."""
        total = torch.zeros(number, dtype=torch.float64, device=self.ranks.device)
        for index, value in values.items():
            total[index] = value
        dist.all_reduce(total)
        return total.cpu().numpy()

    def reduce(self, total: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks."""
        dist.all_reduce(total)
        return total

    def finish(self, outputs: Mapping[str, bool], rows: Mapping[str, int] | None = None) -> None:
        """Publish the result (rank 0); the other ranks wait for it."""
        if self.ranks.first:
            self.stats["seconds"] = round(time.monotonic() - self.started, 1)
            finish(self.request, outputs, self.stats, rows, warnings=self.warnings)
        dist.barrier()


def run_job(work: Callable[[Job[Settings]], None], config: type[Settings]) -> None:
    """A job's main."""
    job_main(lambda request: _run(work, config, request))


def _run(work: Callable[[Job[Settings]], None], config: type[Settings], request: JobRequest) -> None:
    settings = config.model_validate(request.config)
    torch.set_num_threads(settings.threads_per_rank)
    stop = StopSignal()
    tokenizer = chat_tokenizer(model_folder(request, settings))
    if not isinstance(tokenizer, Templated):  # what pads is told from lengths; a model from elsewhere may share an id
        check_special_tokens(tokenizer)
    with distributed() as ranks:
        work(Job(request, settings, ranks, tokenizer, stop))


def model_folder(request: JobRequest, config: JobConfig) -> Path:
    if config.base_model:
        return Path(config.base_model)
    role = "sft" if "sft" in request.inputs else "pretrain"
    return request.inputs[role].local("data/model")


class MetricsLog:
    """One JSON object a step. After a resume the steps that will be taken again are forgotten."""

    def __init__(self, path: Path, first: bool, next_step: int) -> None:
        self._path, self._first = path, first
        if first and path.exists():
            rows = [row for row in _whole_lines(path) if row["step"] < next_step]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def append(self, step: int, figures: Mapping[str, float]) -> None:
        if self._first:
            with self._path.open("a") as stream:
                stream.write(json.dumps({"step": step, **figures}) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        return list(_whole_lines(self._path)) if self._path.exists() else []


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole: a kill may have torn the last."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
