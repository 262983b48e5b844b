"""Batches from token shards, in an order that depends on nothing but the recipe.

The n-th sequence of the training run (counted from the first one ever consumed) is row ``order(n)`` of the shards,
whatever the number of ranks, processes or restarts. The optimizer step that starts at ``consumed`` takes sequences
``consumed … consumed + batch``; rank r of W takes the r-th of W equal slices of them, cut into micro batches (ranks that
share sequences, each a part of them, count as one). The only state is therefore one integer, ``consumed``.

A thread reads and prepares the next steps while the current one computes; ``wait_seconds`` counts what the training
loop nevertheless spent waiting.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from infra.errors import ConfigError
from pipeline.shards.reader import RowBatch, ShardSet
from pipeline.tokenizer import SPECIALS

Order = Callable[[np.ndarray], np.ndarray]
"""Positions in the run -> rows of the shards."""


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward pass, ``[B, T]`` each."""

    input_ids: Tensor
    targets: Tensor
    mask: Tensor
    """1 where the target counts: not padding, and not the first token of another document."""
    segments: Tensor | None
    """Number of the document within the row; None: documents see each other."""
    tokens: float
    """Sum of the mask, taken where it was made: asking an accelerator for it would stall the step."""
    positions: Tensor | None = None
    """``[T]``, where these are a part of longer sequences (context parallel). ``segments`` are then those of all of it."""


Batch = TypeVar("Batch")


@dataclass(frozen=True)
class StepData(Generic[Batch]):
    """One rank's share of an iteration of training."""

    consumed: int
    """Examples consumed by the run before it."""
    batches: list[Batch]
    """Micro batches, as many on every rank."""


def micro_batch(
    rows: RowBatch, device: torch.device, mask_documents: bool, part: tuple[int, int] = (0, 1)
) -> MicroBatch:
    """Shift, mask and number one batch of packed rows; of each the n-th of so many parts."""
    tokens = torch.from_numpy(np.ascontiguousarray(rows.input_ids, dtype=np.int64))
    width = tokens.shape[1]
    starts = np.zeros((len(tokens), width), dtype=np.int64)
    for row, boundaries in enumerate(rows.boundaries):
        starts[row, np.asarray(boundaries, dtype=np.int64)] = 1
    starts[:, 0] = 0
    place = np.arange(width)
    # A document's first token cannot be predicted from the document before it.
    counts = (place[None, 1:] < rows.lengths[:, None]) & (starts[:, 1:] == 0)
    segments = None
    if mask_documents:
        number = starts.cumsum(axis=1)
        number[place[None, :] >= rows.lengths[:, None]] = width  # padding is a document of its own
        segments = torch.from_numpy(number[:, :-1]).to(device, non_blocking=True)
    mine = sequence_slice(width - 1, *part)  # cut once the targets are known: the last one lies in the next part
    return MicroBatch(
        tokens[:, :-1][:, mine].to(device, non_blocking=True),
        tokens[:, 1:][:, mine].to(device, non_blocking=True),
        torch.from_numpy(counts[:, mine].astype(np.float32)).to(device, non_blocking=True),
        segments,
        float(counts[:, mine].sum()),
        None if part[1] == 1 else torch.arange(width - 1)[mine].to(device, non_blocking=True),
    )


def text_targets(batch: MicroBatch) -> MicroBatch:
    """The batch with only those targets counted that stand for text. ``</s>`` stands for no bytes: counted among bits
    per byte it would make short documents look harder to predict than long ones."""
    mask = batch.mask * (batch.targets >= len(SPECIALS)).to(batch.mask.dtype)
    return replace(batch, mask=mask, tokens=float(mask.sum()))


def rank_slice(batch: int, rank: int, world_size: int) -> slice:
    """A rank's part of a step's sequences."""
    if batch % world_size:
        raise ConfigError(
            f"a batch of {batch} sequences cannot be shared by {world_size} ranks",
            where="batch_sequences",
            remedy=f"Choose a multiple of {world_size}.",
        )
    share = batch // world_size
    return slice(rank * share, (rank + 1) * share)


def sequence_slice(tokens: int, part: int, parts: int) -> slice:
    """The n-th of equal parts of a sequence."""
    share = tokens // parts
    return slice(part * share, (part + 1) * share)


class Loader:
    """Steps of training data for one rank, read ahead."""

    def __init__(
        self,
        shards: ShardSet,
        order: Order,
        *,
        batch: int,
        micro: int,
        rank: int,
        world_size: int,
        device: torch.device,
        mask_documents: bool = True,
        part: tuple[int, int] = (0, 1),
        ahead: int = 4,
    ) -> None:
        self.shards, self.order, self.batch, self.micro = shards, order, batch, micro
        self.slice = rank_slice(batch, rank, world_size)
        self.device, self.mask_documents, self.part, self.ahead = device, mask_documents, part, ahead
        self.wait_seconds = 0.0

    def steps(self, consumed: int) -> Generator[StepData[MicroBatch], None, None]:
        """Endless steps from ``consumed`` on. Close the iterator (or leave its loop) to end the reading thread."""
        ready: queue.Queue[StepData[MicroBatch] | BaseException] = queue.Queue(self.ahead)
        stop = threading.Event()
        reader = threading.Thread(target=self._read, args=(consumed, ready, stop), daemon=True)
        reader.start()
        try:
            while True:
                before = time.perf_counter()
                item = ready.get()
                self.wait_seconds += time.perf_counter() - before
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while reader.is_alive():
                with_room = ready.qsize()
                for _ in range(with_room):
                    ready.get_nowait()
                reader.join(0.05)

    def _read(
        self, consumed: int, ready: queue.Queue[StepData[MicroBatch] | BaseException], stop: threading.Event
    ) -> None:
        try:
            while not stop.is_set():
                ready.put(self.load(consumed))
                consumed += self.batch
        except BaseException as error:  # raised again in the training loop
            ready.put(error)

    def load(self, consumed: int) -> StepData[MicroBatch]:
        """This rank's share of the step that starts at ``consumed``."""
        rows = self.order(np.arange(consumed, consumed + self.batch))[self.slice]
        pieces = [rows[start : start + self.micro] for start in range(0, len(rows), self.micro)]
        found = (micro_batch(self.shards.rows(piece), self.device, self.mask_documents, self.part) for piece in pieces)
        return StepData(consumed, list(found))
