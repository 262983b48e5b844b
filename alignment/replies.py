"""Prompts with their replies as tensors, and what a model says about them.

Rows are padded on the right, to whole vectors: with causal attention nothing before the padding ever sees it, so no
attention mask is needed and none can be wrong, and what is said of a row does not depend on its neighbours' lengths.
What counts is a mask over *predictions*: entry t is about the token at t + 1, and is True where that token belongs to
the reply, its end token included. It comes from lengths, never from comparing ids with the padding id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.attention import PROMPT_BLOCK, whole_blocks
from training.deferred import home
from training.loss import token_log_probs, token_log_probs_and_entropy
from training.model import Decoder


@dataclass(frozen=True)
class Replies:
    """``input_ids [B, T]``, ``mask [B, T - 1]`` over predictions, ``lengths [B]`` of prompt and reply together."""

    input_ids: Tensor
    mask: Tensor
    lengths: Tensor

    @property
    def targets(self) -> Tensor:
        return self.input_ids[:, 1:]

    @property
    def tokens(self) -> int:
        """Reply tokens in the batch."""
        return int(self.mask.sum())


def collate(
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> Replies:
    """A batch of prompts, each followed by its reply."""
    lengths = [len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True)]
    width = whole_blocks(max(lengths), PROMPT_BLOCK)
    input_ids = torch.full((len(lengths), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(lengths), width - 1), dtype=torch.bool)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        input_ids[row, : lengths[row]] = torch.tensor([*prompt, *reply])
        mask[row, len(prompt) - 1 : lengths[row] - 1] = True
    return Replies(input_ids.to(device), mask.to(device), torch.tensor(lengths, device=device))


def reply_log_probs(model: Decoder, batch: Replies, temperature: float = 1.0) -> Tensor:
    """Log-probability of each reply token ``[B, T - 1]``, zero outside the replies.

    Only the reply positions reach the output projection, by far the largest product of a small model.
    """
    hidden = model(batch.input_ids)[:, :-1][batch.mask]
    log_probs = token_log_probs(hidden, model.output_weight, batch.targets[batch.mask], temperature)
    return _spread(log_probs, batch.mask)


def reply_log_probs_and_entropy(model: Decoder, batch: Replies, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """As ``reply_log_probs``, with the entropy (nats) of each prediction."""
    hidden = model(batch.input_ids)[:, :-1][batch.mask]
    targets = batch.targets[batch.mask]
    log_probs, entropy = token_log_probs_and_entropy(hidden, model.output_weight, targets, temperature)
    return _spread(log_probs, batch.mask), _spread(entropy, batch.mask)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put values of the masked entries back in their places."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=mask.device).masked_scatter(mask, values)


class RewardModel(nn.Module):
    """A decoder whose hidden states are read by one linear score.

    The score at a reply's last token judges the reply; the scores at its earlier tokens serve as a value function.
    ``mean`` and ``std`` (measured on the training pairs) bring raw scores to zero mean and unit variance, so that the
    coefficient of KL and the clipping of values mean the same for every reward model.
    """

    def __init__(self, decoder: Decoder, score: Tensor | None = None, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        # A classifier has no output matrix; a parameter without a gradient would also upset the ranks' reduction.
        decoder.lm_head = None
        decoder.config = decoder.config.model_copy(update={"tie_embeddings": True})
        self.decoder = decoder
        weight = decoder.embed_tokens.weight
        self.score = nn.Linear(decoder.config.hidden_size, 1, bias=False, device=home(weight), dtype=weight.dtype)
        self.mean, self.std = mean, std
        with torch.no_grad():
            # Starting from zero, all replies are equal and the first update is decided by the data alone.
            self.score.weight.zero_() if score is None else self.score.weight.copy_(score)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Normalised score at every token ``[B, T]``, float32."""
        raw: Tensor = self.score(self.decoder(input_ids)).squeeze(-1).float()
        return (raw - self.mean) / self.std

    def judge(self, batch: Replies) -> Tensor:
        """Normalised score of each reply ``[B]``: that at its last token."""
        raw: Tensor = self.score(self.last_states(batch)).squeeze(-1).float()
        return (raw - self.mean) / self.std

    def last_states(self, batch: Replies) -> Tensor:
        """What the score reads of each reply ``[B, hidden]``."""
        hidden: Tensor = self.decoder(batch.input_ids)
        return hidden[torch.arange(len(batch.lengths), device=hidden.device), batch.lengths - 1]

    def values(self, batch: Replies) -> Tensor:
        """The expected score before each token ``[B, T - 1]``, in step with ``Replies.mask``."""
        scores: Tensor = self(batch.input_ids)
        return scores[:, :-1]
