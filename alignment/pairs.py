"""Preference pairs as token batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignment.conversations import render_prompt, render_reply
from alignment.generation import HeldOutPrompts
from alignment.job import ModelJob
from alignment.pair_files import Pair
from alignment.preferences import pairs_tokenizer, read_pairs
from alignment.replies import Replies, collate
from alignment.template_chat import AnyTokenizer
from infra.errors import InputError
from training.engine import Engine


@dataclass(frozen=True)
class PairTokens:
    """A pair as ids: the prompt, and each reply with its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    id: str = ""
    weight: float = 1.0
    tie: bool = False
    margin: float = 0.0

    @property
    def length(self) -> int:
        """Tokens of the longer of the two rows."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class PairBatch:
    """Chosen and rejected replies in one batch, chosen first: one forward pass sees both."""

    replies: Replies
    indices: np.ndarray
    weights: Tensor
    """Of each pair, how much it counts; ``ties`` where neither reply is better, ``margins`` how much better it is."""
    ties: Tensor
    margins: Tensor

    @property
    def pairs(self) -> int:
        return len(self.indices)


def tokenize_pairs(tokenizer: AnyTokenizer, pairs: Sequence[Pair]) -> list[PairTokens]:
    """The pairs' tokens: those a reply was sampled as where they are known, else those of its text."""
    return [
        PairTokens(
            render_prompt(tokenizer, pair.prompt),
            list(pair.chosen_ids or render_reply(tokenizer, pair.chosen)),
            list(pair.rejected_ids or render_reply(tokenizer, pair.rejected)),
            pair.id,
            pair.weight,
            pair.tie,
            pair.margin,
        )
        for pair in pairs
    ]


def pairs_of(job: ModelJob[Any], split: str) -> list[Pair]:
    """The pairs of the job's preferences. Tokens of another tokenizer than the job's are left out."""
    path = job.data("preferences") / "pairs.parquet"
    pairs = read_pairs(path, split)
    if pairs_tokenizer(path) == job.tokenizer_digest:
        return pairs
    return [replace(pair, chosen_ids=None, rejected_ids=None) for pair in pairs]


def training_pairs(job: ModelJob[Any], ties: bool = False) -> tuple[list[PairTokens], list[PairTokens]]:
    """What to train on and what to measure on; ``ties`` only for those who can learn from them. Raises InputError where
    nothing is left, or the model has no room for the longest."""
    found = ([pair for pair in pairs_of(job, split) if ties or not pair.tie] for split in ("train", "held_out"))
    both = tuple(tokenize_pairs(job.tokenizer, pairs) for pairs in found)
    if not all(both):
        raise InputError(
            "all comparisons to train on or to measure on are ties, which say nothing here", where="preferences"
        )
    longest, limit = max(int(pair_lengths(pairs).max()) for pairs in both), job.position_limit
    if longest > limit:
        raise InputError(
            f"a pair of {longest} tokens is longer than the model's {limit} positions",
            where=str(job.model_folder),
            remedy=f"Set preferences.max_pair_tokens (or max_prompt_tokens and max_reply_tokens) to {limit} together.",
        )
    return both[0], both[1]


def held_out_questions(job: ModelJob[Any], reply_tokens: int, most: int) -> HeldOutPrompts:
    """Prompts of held-out pairs, each once, after which the model has room for so many tokens."""
    prompts: dict[tuple[int, ...], int] = {}
    room = job.position_limit - reply_tokens
    for pair in tokenize_pairs(job.tokenizer, pairs_of(job, "held_out")):
        if len(pair.prompt) <= room:
            prompts.setdefault(tuple(pair.prompt), len(pair.chosen))
    chosen = list(prompts)[:most]
    return HeldOutPrompts(chosen, np.array([prompts[prompt] for prompt in chosen]), reply_tokens)


def pair_lengths(pairs: Sequence[PairTokens]) -> np.ndarray:
    return np.array([pair.length for pair in pairs])


def pair_batch(
    pairs: Sequence[PairTokens], indices: np.ndarray, pad_id: int, device: torch.device, idle: bool = False
) -> PairBatch:
    """The batch of the given pairs; of an ``idle`` one they weigh nothing."""
    some = [pairs[index] for index in indices]
    replies = [pair.chosen for pair in some] + [pair.rejected for pair in some]
    weights, ties, margins = (
        torch.tensor([getattr(pair, name) for pair in some], device=device) for name in ("weight", "tie", "margin")
    )
    batch = collate([pair.prompt for pair in some] * 2, replies, pad_id, device)
    return PairBatch(batch, indices, weights * 0.0 if idle else weights, ties, margins)


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to the chosen and what to the rejected replies."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected


def pair_figures(
    job: ModelJob[Any], engine: Engine, pairs: Sequence[PairTokens], figure: Callable[[Any, PairBatch], Tensor]
) -> np.ndarray:
    """A figure of the chosen and the rejected reply of each pair ``[pairs, 2]``, float64, shared among the ranks and
    known to all. ``figure(model, batch)`` is ``[2 * pairs]``, chosen replies first."""
    mine: dict[int, float] = {}
    indices = np.argsort(pair_lengths(pairs), kind="stable")[job.ranks.rank :: job.ranks.world_size]
    with engine.gathered():
        for start in range(0, len(indices), job.config.micro_batch):
            part = indices[start : start + job.config.micro_batch]
            batch = pair_batch(pairs, part, job.tokenizer.pad_id, job.ranks.device)
            chosen, rejected = halves(engine.evaluate(figure, batch))
            for index, better, worse in zip(part.tolist(), chosen.tolist(), rejected.tolist(), strict=True):
                mine[2 * index], mine[2 * index + 1] = better, worse
    return job.gather(mine, 2 * len(pairs)).reshape(-1, 2)
