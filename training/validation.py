"""Validation inside the loop: bits per byte of held-out documents, by domain.

Bits per byte compares models with different tokenizers: the summed loss in bits, over the UTF-8 bytes those tokens
stand for. Tokens that stand for none (``</s>``) are not counted.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from training.context_parallel import Context
from training.engine import Engine
from training.loader import MicroBatch, micro_batch, text_targets
from training.loss import chunked_cross_entropy
from training.model import Decoder


def summed_loss(
    model: Decoder, batch: MicroBatch, z_loss: float = 0.0, context: Context | None = None
) -> dict[str, Tensor]:
    """Summed next-token loss of a micro batch; of this rank's part of it, where the ranks of a ``context`` share it."""
    hidden = model(batch.input_ids, batch.positions, batch.segments, context=context)
    total, _ = chunked_cross_entropy(hidden, model.output_weight, batch.targets, batch.mask, z_loss, model.compiled)
    return {"loss": total}


def bits_per_byte(
    engine: Engine, domains: Mapping[str, Any], *, limit: int, micro: int, mask_documents: bool
) -> dict[str, float]:
    """By domain, over the first ``limit`` rows of each ``ShardSet``; its rows are shared out over the ranks, each of them
    whole: without gradients little is kept of it."""
    answers = {}
    share, shares = engine.mesh.place(engine.ranks.rank), engine.mesh.places
    for name, shards in sorted(domains.items()):
        count = min(limit, len(shards))
        mine = np.arange(share, count, shares)
        sums = torch.zeros(2, dtype=torch.float64, device=engine.ranks.device)
        # Every rank runs the same number of forward passes: under ZeRO-3 each of them is collective.
        rounds = math.ceil(math.ceil(count / shares) / micro)
        for index in range(rounds):
            piece = mine[index * micro : (index + 1) * micro]
            rows = shards.rows(piece if len(piece) else np.zeros(1, dtype=np.int64))
            batch = text_targets(micro_batch(rows, engine.ranks.device, mask_documents))
            loss = engine.evaluate(summed_loss, batch)["loss"]
            if len(piece):
                sums += torch.tensor([float(loss), float(np.sum(rows.bytes))], dtype=torch.float64).to(sums)
        dist.all_reduce(sums)
        nats, size = sums.tolist()
        answers[name] = nats / math.log(2) / size if size else math.nan
    return answers
