"""KTO (arXiv 2402.01306): replies that somebody liked or did not, each by itself.

A reply's log-ratio is measured from a point z₀: the policy's KL from the reference, estimated on replies to *other* prompts. The
other prompt's reply is fixed for each row, so that the reference is asked once; z₀ is the mean over the whole step, on all
ranks, taken before it: any cut of the step gives the same gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alignment.conversations import render_prompt, render_reply
from alignment.data import RatedReply
from alignment.losses import PreferenceRules, kto
from alignment.pairs import PairTokens
from alignment.replies import Replies, collate, reply_log_probs
from alignment.template_chat import AnyTokenizer
from training.model import Decoder


@dataclass(frozen=True)
class Rated:
    """Replies with their verdicts. A row's ``chosen`` is the reply, its ``rejected`` the reply to another prompt."""

    rows: list[PairTokens]
    liked: np.ndarray


@dataclass(frozen=True)
class RatedBatch:
    """Some rows as tensors; ``known`` [rows, 2] is what the reference gives the replies and the other prompts' replies."""

    own: Replies
    others: Replies
    liked: Tensor
    weights: Tensor
    known: Tensor


def rated(pairs: Sequence[PairTokens], tokenizer: AnyTokenizer, single: Sequence[RatedReply] = ()) -> Rated:
    """Both replies of each pair, one liked, the other not; and replies that were rated alone."""
    rows = [(pair.prompt, pair.chosen, True, pair.id, pair.weight) for pair in pairs]
    rows += [(pair.prompt, pair.rejected, False, pair.id, pair.weight) for pair in pairs]
    for each in single:
        prompt, reply = render_prompt(tokenizer, each.prompt), render_reply(tokenizer, each.completion)
        rows.append((prompt, reply, each.label, each.id, each.weight))
    found = []
    for place, (prompt, reply, _, name, weight) in enumerate(rows):
        # The reply to the next prompt that is another: of a pair's own two neither.
        later = (rows[(place + step) % len(rows)] for step in range(1, len(rows)))
        other = next((each[1] for each in later if each[0] != prompt), reply)
        found.append(PairTokens(prompt, reply, other, name, weight))
    return Rated(found, np.array([liked for _, _, liked, _, _ in rows]))


def rated_batch(
    given: Rated, known: np.ndarray, indices: np.ndarray, pad_id: int, device: torch.device, idle: bool = False
) -> RatedBatch:
    """The batch of the given rows; of an ``idle`` one they weigh nothing."""
    some = [given.rows[index] for index in indices]
    prompts = [row.prompt for row in some]
    return RatedBatch(
        collate(prompts, [row.chosen for row in some], pad_id, device),
        collate(prompts, [row.rejected for row in some], pad_id, device),
        torch.from_numpy(given.liked[indices]).to(device),
        torch.tensor([row.weight * (not idle) for row in some], device=device),
        torch.from_numpy(known[indices]).to(device, torch.float32),
    )


def other_log_ratios(policy: Decoder, batch: RatedBatch) -> Tensor:
    """log π/π_ref of the replies to other prompts ``[rows]``; z₀ is their mean over a step, if it is positive."""
    return reply_log_probs(policy, batch.others).sum(1) - batch.known[:, 1]


def kto_losses(
    policy: Decoder, batch: RatedBatch, reference_point: float, rules: PreferenceRules, chosen_loss: float
) -> dict[str, Tensor]:
    """Sums over the rows of a batch, each by its weight."""
    totals = reply_log_probs(policy, batch.own).sum(1)
    log_ratios = totals - batch.known[:, 0]
    loss = (batch.weights * kto(log_ratios, batch.liked, reference_point, rules)).sum()
    own = -(batch.weights * totals / batch.own.mask.sum(1))[batch.liked].sum()
    right = (log_ratios.detach() > reference_point) == batch.liked
    return {
        "loss": loss + chosen_loss * own,
        "preference_loss": loss.detach(),
        "chosen_loss": own.detach(),
        "accuracy": (batch.weights * right).sum(),
        "reference_point": reference_point * batch.weights.sum(),
    }
