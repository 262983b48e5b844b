"""How well a decoder predicts rows of tokens: sums of losses and bits per byte.

A row is what a token shard holds: ``seq_len + 1`` ids, its real length, and where its documents begin. Each token is
predicted from the earlier tokens of its own document; the first token of a document is not a target, for nothing
before it belongs to it, and neither is ``</s>``, which stands for no bytes: where a document ends costs nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from infra.errors import InputError
from pipeline.shards.reader import RowBatch
from training.attention import PROMPT_BLOCK, whole_blocks
from training.loader import micro_batch, text_targets
from training.loss import chunk_tokens, token_log_probs
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


@dataclass(frozen=True)
class Continuation:
    """What a model says of a continuation after its context."""

    nats: float
    likeliest: bool
    """Each of its tokens is the likeliest where it stands."""
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), compare=False)
    """Loss of each of its tokens."""


def continuation_nats(
    model: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 8
) -> np.ndarray:
    """Loss (nats) of each (context, continuation), the continuation's tokens only."""
    return np.array([each.nats for each in score_continuations(model, pairs, batch_size)])


@torch.no_grad()
def score_continuations(
    model: Decoder, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 8
) -> list[Continuation]:
    """The continuation's tokens after each (context, continuation).

    Where both are longer than the model's context, the context's beginning gives way, then the continuation's end.
    """
    rows = [_fit(context, continuation, model.config.max_position + 1) for context, continuation in pairs]
    found: list[Continuation] = [Continuation(0.0, True)] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    for start in range(0, len(order), batch_size):
        chosen = [index for index in order[start : start + batch_size] if len(rows[index][0]) > 1]
        if not chosen:
            continue
        # A forward over whole vectors: what is said of a row does not depend on its neighbours' lengths.
        width = 1 + whole_blocks(max(len(rows[index][0]) for index in chosen) - 1, PROMPT_BLOCK)
        ids = torch.zeros(len(chosen), width, dtype=torch.int64)
        mask = torch.zeros(len(chosen), width, dtype=torch.bool)
        for place, index in enumerate(chosen):
            tokens, first = rows[index]
            ids[place, : len(tokens)] = torch.tensor(tokens)
            mask[place, first : len(tokens)] = True
        ids, mask = ids.to(model.device), mask.to(model.device)[:, 1:]
        # Padding is on the right, where causal attention keeps it from being seen.
        hidden = model(ids[:, :-1])[mask]
        nats, likeliest = _judge(model, hidden, ids[:, 1:][mask])
        sizes = mask.sum(1).tolist()
        for index, losses, right in zip(chosen, nats.split(sizes), likeliest.split(sizes), strict=True):
            each = losses.cpu().numpy().astype(np.float32)
            found[index] = Continuation(float(losses.sum(dtype=torch.float64)), bool(right.all()), each)
    return found


def _judge(model: Decoder, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each target, and whether it is the likeliest token; no more logits at a time than a chunk's."""
    size = chunk_tokens(model.config.vocab_size, model.device)
    nats, likeliest = [], []
    for some, wanted in zip(hidden.split(size), targets.split(size), strict=True):
        logits = model.logits(some).float()
        nats.append(logits.logsumexp(-1) - logits.gather(-1, wanted.unsqueeze(-1)).squeeze(-1))
        likeliest.append(logits.argmax(-1) == wanted)
    return torch.cat(nats), torch.cat(likeliest)


def _fit(context: Sequence[int], continuation: Sequence[int], limit: int) -> tuple[list[int], int]:
    """The tokens of both, at most ``limit``, and where the continuation begins (at least one token comes before)."""
    continuation = continuation[: limit - 1]
    kept = context[max(0, len(context) - (limit - len(continuation))) :]
    return [*kept, *continuation], len(kept)
