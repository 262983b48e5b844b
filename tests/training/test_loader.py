"""Batches follow the recipe alone: not the number of ranks, the micro batch, or where a run was resumed."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from pipeline.shards.order import rows_of
from training.loader import Loader, micro_batch

CPU = torch.device("cpu")


@dataclass
class Rows:
    input_ids: np.ndarray
    lengths: np.ndarray
    boundaries: list


class NumberedShards:
    """Row r holds r in every place."""

    def __init__(self, count, width=9, delay=0.0):
        self.count, self.width, self.delay = count, width, delay

    def __len__(self):
        return self.count

    def rows(self, indices):
        time.sleep(self.delay)
        ids = np.repeat(np.asarray(indices)[:, None], self.width, axis=1)
        return Rows(ids, np.full(len(indices), self.width), [np.array([0]) for _ in indices])


def loader(shards, batch, micro, rank, world_size, **options):
    return Loader(
        shards,
        lambda consumed: rows_of(7, consumed, [len(shards)]),
        batch=batch,
        micro=micro,
        rank=rank,
        world_size=world_size,
        device=CPU,
        **options,
    )


def rows_seen(data):
    return [int(row) for batch in data.batches for row in batch.input_ids[:, 0]]


@given(
    world_size=st.sampled_from([1, 2, 3, 4, 6]),
    micro=st.integers(1, 5),
    start=st.integers(0, 100),
    count=st.integers(1, 90),
)
def test_ranks_together_take_the_steps_sequences_in_order(world_size, micro, start, count):
    shards = NumberedShards(count)
    together = []
    for rank in range(world_size):
        together += rows_seen(loader(shards, 12, micro, rank, world_size).load(start))
    assert together == rows_of(7, np.arange(start, start + 12), [count]).tolist()


def test_an_epoch_sees_every_row_once():
    shards = NumberedShards(40)
    steps = loader(shards, 8, 3, 0, 1).steps(0)
    first = sorted(row for _ in range(5) for row in rows_seen(next(steps)))
    second = [row for _ in range(5) for row in rows_seen(next(steps))]
    steps.close()
    assert first == list(range(40)) == sorted(second)
    assert second != [row for data in [loader(shards, 40, 40, 0, 1).load(0)] for row in rows_seen(data)]


def test_resuming_continues_the_same_stream():
    shards = NumberedShards(50)
    whole, later = loader(shards, 4, 2, 0, 2).steps(0), loader(shards, 4, 2, 0, 2).steps(12)
    for _ in range(3):
        next(whole)
    for _ in range(4):
        assert rows_seen(next(whole)) == rows_seen(next(later))
    whole.close()
    later.close()


def test_closing_ends_the_reading_thread():
    before = threading.active_count()
    steps = loader(NumberedShards(10), 4, 2, 0, 1).steps(0)
    next(steps)
    steps.close()
    assert threading.active_count() == before


def test_an_error_while_reading_surfaces_in_the_loop():
    class Broken(NumberedShards):
        def rows(self, indices):
            raise OSError("the disk went away")

    steps = loader(Broken(10), 4, 2, 0, 1).steps(0)
    with pytest.raises(OSError, match="went away"):
        next(steps)


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="10 sequences cannot be shared by 4 ranks"):
        loader(NumberedShards(10), 10, 2, 0, 4)


def test_waiting_is_counted_only_when_there_is_something_to_wait_for():
    slow = loader(NumberedShards(100, delay=0.05), 4, 4, 0, 1)
    steps = slow.steps(0)
    for _ in range(4):
        next(steps)
    steps.close()
    assert slow.wait_seconds > 0.1
    ahead = loader(NumberedShards(100, delay=0.01), 4, 4, 0, 1)
    steps = ahead.steps(0)
    next(steps)
    waited = ahead.wait_seconds
    for _ in range(4):
        time.sleep(0.1)
        next(steps)
    steps.close()
    assert ahead.wait_seconds - waited < 0.05


def test_masks_know_documents_and_padding():
    # <a a a b b | pad pad>: document b starts at 3, the row ends at 5
    rows = Rows(np.array([[11, 12, 13, 21, 22, 0, 0]]), np.array([5]), [np.array([0, 3])])
    batch = micro_batch(rows, CPU, mask_documents=True)
    assert batch.input_ids.tolist() == [[11, 12, 13, 21, 22, 0]]
    assert batch.targets.tolist() == [[12, 13, 21, 22, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 0, 1, 0, 0]]  # 21 opens a document, the zeros are padding
    assert batch.tokens == 3
    segments = batch.segments[0].tolist()
    assert segments[:3] == [0, 0, 0] and segments[3:5] == [1, 1] and segments[5] not in (0, 1)
    assert micro_batch(rows, CPU, mask_documents=False).segments is None
