"""Preference pairs as token batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alignment.conversations import ChatTokenizer, render_prompt, render_reply
from alignment.preferences import Pair
from alignment.replies import Replies, collate


@dataclass(frozen=True)
class PairTokens:
    """A pair as ids: the prompt, and each reply with its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer of the two rows."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class PairBatch:
    """Chosen and rejected replies in one batch, chosen first: one forward pass sees both."""

    replies: Replies
    indices: np.ndarray

    @property
    def pairs(self) -> int:
        return len(self.indices)


def tokenize_pairs(tokenizer: ChatTokenizer, pairs: Sequence[Pair]) -> list[PairTokens]:
    return [
        PairTokens(
            render_prompt(tokenizer, pair.prompt),
            render_reply(tokenizer, pair.chosen),
            render_reply(tokenizer, pair.rejected),
        )
        for pair in pairs
    ]


def pair_lengths(pairs: Sequence[PairTokens]) -> np.ndarray:
    return np.array([pair.length for pair in pairs])


def pair_batch(pairs: Sequence[PairTokens], indices: np.ndarray, pad_id: int, device: torch.device) -> PairBatch:
    """The batch of the given pairs."""
    some = [pairs[index] for index in indices]
    replies = [pair.chosen for pair in some] + [pair.rejected for pair in some]
    return PairBatch(collate([pair.prompt for pair in some] * 2, replies, pad_id, device), indices)


def halves(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What belongs to the chosen and what to the rejected replies."""
    chosen, rejected = values.chunk(2)
    return chosen, rejected
