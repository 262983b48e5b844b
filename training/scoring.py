"""How well a decoder predicts rows of tokens: sums of losses and bits per byte.

A row is what a token shard holds: ``seq_len + 1`` ids, its real length, and where its documents begin. Each token is
predicted from the earlier tokens of its own document; the first token of a document is not a target, for nothing
before it belongs to it, and neither is ``</s>``, which stands for no bytes: where a document ends costs nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from infra.errors import InputError
from pipeline.shards.reader import RowBatch
from training.loader import micro_batch, text_targets
from training.loss import token_log_probs
from training.model import Decoder


@dataclass(frozen=True)
class RowScores:
    """For each row: loss summed over its targets (nats), how many they are, and the UTF-8 bytes they stand for."""

    nats: np.ndarray
    targets: np.ndarray
    bytes: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / math.log(2) / self.bytes.sum())

    @property
    def nats_per_token(self) -> float:
        return float(self.nats.sum() / self.targets.sum())


@torch.no_grad()
def score_rows(model: Decoder, rows: RowBatch, batch_size: int = 8) -> RowScores:
    """Score validation rows, a batch at a time. The model's mode is left as it was."""
    if rows.bytes is None:
        raise InputError("the rows do not say how many bytes they stand for", remedy="Score a validation split.")
    nats, targets = [], []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(rows.lengths), batch_size):
            part = slice(start, start + batch_size)
            few = RowBatch(rows.input_ids[part], rows.lengths[part], rows.boundaries[part], None)
            batch = text_targets(micro_batch(few, model.device, mask_documents=True))
            hidden = model(batch.input_ids, segments=batch.segments)
            log_probs = token_log_probs(hidden, model.output_weight, batch.targets)
            nats.append(-(log_probs * batch.mask).sum(1, dtype=torch.float64).cpu().numpy())
            targets.append(batch.mask.sum(1).cpu().numpy())
    finally:
        model.train(was_training)
    return RowScores(np.concatenate(nats), np.concatenate(targets).astype(np.int64), rows.bytes)


@torch.no_grad()
def continuation_nats(
    model: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 8
) -> np.ndarray:
    """Loss (nats) of each (context, continuation), the continuation's tokens only.

    Where both are longer than the model's context, the context's beginning gives way, then the continuation's end.
    """
    rows = [_fit(context, continuation, model.config.max_position + 1) for context, continuation in pairs]
    nats = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(rows[index][0]) for index in chosen)
        ids = torch.zeros(len(chosen), width, dtype=torch.int64)
        mask = torch.zeros(len(chosen), width, dtype=torch.bool)
        for place, index in enumerate(chosen):
            tokens, first = rows[index]
            ids[place, : len(tokens)] = torch.tensor(tokens)
            mask[place, first : len(tokens)] = True
        ids, mask = ids.to(model.device), mask.to(model.device)
        # Padding is on the right, where causal attention keeps it from being seen.
        log_probs = token_log_probs(model(ids[:, :-1]), model.output_weight, ids[:, 1:])
        nats[chosen] = -(log_probs * mask[:, 1:]).sum(1, dtype=torch.float64).cpu().numpy()
    return nats


def _fit(context: Sequence[int], continuation: Sequence[int], limit: int) -> tuple[list[int], int]:
    """The tokens of both, at most ``limit``, and where the continuation begins (at least one token comes before)."""
    continuation = continuation[: limit - 1]
    kept = context[max(0, len(context) - (limit - len(continuation))) :]
    return [*kept, *continuation], len(kept)
