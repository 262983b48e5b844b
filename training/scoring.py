"""How well a decoder predicts rows of tokens: sums of losses and bits per byte.

A row is what a token shard holds: ``seq_len + 1`` ids, its real length, and where its documents begin. Each token is
predicted from the earlier tokens of its own document; the first token of a document is not a target, for nothing
before it belongs to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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


def row_segments(boundaries: Sequence[np.ndarray], lengths: np.ndarray, width: int) -> np.ndarray:
    """The document number of each position of each row: 1, 2, …, and 0 on padding."""
    segments = np.zeros((len(lengths), width), dtype=np.int64)
    for row, (starts, length) in enumerate(zip(boundaries, lengths, strict=True)):
        segments[row, starts[starts < width]] = 1
        np.cumsum(segments[row], out=segments[row])
        segments[row, length:] = 0
    return segments


def target_mask(segments: Tensor) -> Tensor:
    """Which positions ``1…`` are predicted from the position before: same document, not padding."""
    return (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)


@torch.no_grad()
def score_rows(
    model: Decoder,
    input_ids: np.ndarray,
    lengths: np.ndarray,
    boundaries: Sequence[np.ndarray],
    row_bytes: np.ndarray,
    batch_size: int = 8,
) -> RowScores:
    """Score all rows, a batch at a time. The model's mode is left as it was."""
    segments = torch.from_numpy(row_segments(boundaries, lengths, input_ids.shape[1]))
    ids = torch.from_numpy(input_ids.astype(np.int64, copy=False))
    nats, targets = [], []
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(ids), batch_size):
            rows, places = (part[start : start + batch_size].to(model.device) for part in (ids, segments))
            mask = target_mask(places)
            hidden = model(rows[:, :-1], segments=places[:, :-1])
            log_probs = token_log_probs(hidden, model.output_weight, rows[:, 1:])
            nats.append(-(log_probs * mask).sum(1, dtype=torch.float64).cpu().numpy())
            targets.append(mask.sum(1).cpu().numpy())
    finally:
        model.train(was_training)
    return RowScores(np.concatenate(nats), np.concatenate(targets), row_bytes.astype(np.int64))


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
