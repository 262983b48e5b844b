"""One request to a model that is served, from what is asked to the last piece of its replies.

    Ask -> Ticket -> Reading (its prompt, a piece at a time) -> Writing (one for each reply) -> sink

``training.serving`` runs many of them at a time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.generate import Row, Sampling
from training.text_model import StopReader, TextModel, TextReader

READ_TOKENS = 512
"""Tokens of prompts that are read between two steps."""


@dataclass(frozen=True)
class Ask:
    """What is asked for: replies to one prompt."""

    prompt: tuple[int, ...]
    sampling: Sampling
    replies: int = 1
    """Of one seed, told apart by their place."""
    top: int | None = None
    """How many of the likeliest alternatives to tell for each token; None: no probabilities at all."""
    prompt_top: int | None = None
    """The same for the prompt's tokens."""
    ignore_ends: bool = False
    """Write on where the model would end."""
    read_only: bool = False
    """Say what the model thinks of the prompt, and write nothing."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log-probability under the model itself, and its likeliest alternatives."""

    token: int
    log_prob: float
    rank: int
    """1: the likeliest. Of a reply's tokens, 0 if it is not among the alternatives."""
    top: tuple[tuple[int, float], ...]
    at: int = 0
    """Characters of the reply before it."""
    ends: bool = False
    """It ends the reply and stands for no text."""


@dataclass(frozen=True)
class Piece:
    """What a step adds to a reply. The last one has a ``finish``: stop, length, cancelled or error."""

    reply: int
    text: str
    tokens: int
    """Tokens the reply has by now."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    error: str = ""


@dataclass(frozen=True)
class PromptRead:
    """What the model thinks of a prompt, from its second token on."""

    logprobs: tuple[TokenLogprob, ...]


Sink = Callable[[Piece | PromptRead], None]
"""Where answers go, in the engine's thread: it must not wait."""


@dataclass(eq=False)
class Ticket:
    """A request on its way."""

    ask: Ask
    sink: Sink
    rows: list[Row]
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled = True


class Reading:
    """A long prompt, or one whose tokens are judged, read a piece at a time."""

    def __init__(self, model: TextModel, ticket: Ticket) -> None:
        self.ticket, self.decoder = ticket, model.decoder
        self.cache = model.decoder.new_cache(1, len(ticket.ask.prompt))
        self.logprobs: list[TokenLogprob] = []
        self.at = 0
        self.end: Tensor | None = None

    def go_on(self) -> bool:
        """Read a piece; whether that was the last."""
        ask = self.ticket.ask
        some = ask.prompt[self.at : self.at + READ_TOKENS]
        hidden = self.decoder(torch.tensor([some], device=self.decoder.device), cache=self.cache)
        if ask.prompt_top is not None:
            following = ask.prompt[self.at + 1 : self.at + 1 + len(some)]
            self.logprobs += self._judge(hidden[0, : len(following)], following, ask.prompt_top)
        self.at += len(some)
        self.end = hidden[:, -1]
        return self.at == len(ask.prompt)

    def _judge(self, hidden: Tensor, tokens: tuple[int, ...], top: int) -> Iterator[TokenLogprob]:
        size = max(1, (1 << 22) // self.decoder.config.vocab_size)
        for start in range(0, len(tokens), size):
            some = torch.tensor(tokens[start : start + size], device=hidden.device)
            log_probs = self.decoder.logits(hidden[start : start + size]).float().log_softmax(-1)
            own = log_probs.gather(1, some.unsqueeze(1))
            ranks = (log_probs > own).sum(1) + 1
            values, order = log_probs.topk(min(max(top, 1), log_probs.shape[-1]))
            yield from (
                TokenLogprob(token, value, rank, tuple(zip(ids[:top], likely[:top], strict=True)))
                for token, value, rank, ids, likely in zip(
                    some.tolist(), own.squeeze(1).tolist(), ranks.tolist(), order.tolist(), values.tolist(), strict=True
                )
            )


class Writing:
    """A reply that is being written: its row's settings, its text so far, what is held back of it."""

    def __init__(self, ticket: Ticket, row: Row, model: TextModel) -> None:
        self.ticket, self.row = ticket, row
        self.number = 0
        self.token = 0
        self.reader = TextReader(model, ticket.ask.prompt)
        self.stops = StopReader(row.sampling.stop)
        self.plain = not row.sampling.stop
        self.read = self.shown = 0
        """Characters that its tokens stand for, and that were handed on."""
        self.logprobs: deque[TokenLogprob] = deque()

    def take(self, token: int, known: TokenLogprob | None, ends: bool) -> bool:
        """Take a token and hand on what is sure of the text; whether the reply is complete."""
        self.number += 1
        self.token = token
        if known is not None:
            self.logprobs.append(TokenLogprob(token, known.log_prob, known.rank, known.top, self.read, ends))
        piece = "" if ends else self.reader.read(token)
        self.read += len(piece)
        text = piece if self.plain else self.stops.read(piece)
        finish = "stop" if ends or self.stops.stopped else "length" if self.number == self.row.budget else None
        if finish and not self.stops.stopped:
            text += self._rest()
        self.shown += len(text)
        natural = finish is not None and not self.stops.stopped
        ready = []
        while self.logprobs and (natural or self.logprobs[0].at < self.shown):
            ready.append(self.logprobs.popleft())
        if text or ready or finish:
            self.ticket.sink(Piece(self.row.index, text, self.number, tuple(ready), finish))
        return finish is not None

    def _rest(self) -> str:
        rest = self.stops.read(self.reader.rest())
        return rest if self.stops.stopped else rest + self.stops.held

    def end(self, finish: str, error: str = "") -> None:
        self.ticket.sink(Piece(self.row.index, "", self.number, (), finish, error))
