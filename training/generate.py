"""Sampling text from a decoder: batched, with a key/value cache, reproducible.

Rows lie side by side in the cache, each from slot 0 and with a length, a budget and settings of its own. Rows that have
ended leave the batch, so a long straggler costs only itself. Every row draws from a generator seeded by (seed, row): what
a row becomes depends neither on the other rows nor on when they end.

The log-probability kept of each sampled token is that under the model itself: temperature 1, nothing filtered.
"""

import itertools
import math
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from infra.config import Config
from infra.errors import HeadwaterError, InputError
from training.attention import PROMPT_BLOCK, KVCache, whole_blocks
from training.model import Decoder

COLDEST = 1e-6
"""Below it a temperature is 0: nothing but the likeliest is ever drawn, and logits divided by it may leave the numbers."""


class Sampling(Config):
    """How the next token is chosen."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest reply, in tokens."""
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the likeliest token; 1 is the model's own distribution."""
    top_k: int = Field(default=0, ge=0)
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens that together reach this probability."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep tokens at least this fraction as likely as the likeliest."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1 makes tokens that already occur in the prompt or the reply less likely."""
    penalise_stops: bool = False
    """Let the repetition penalty count the tokens that end a reply."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token that occurs in the reply."""
    frequency_penalty: float = 0.0
    """Taken from the logit of a token for each time that it occurs in the reply."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply and are left out of it, also across tokens. For those who generate text; rows of ids have
    ``stop_ids`` and ``closed``."""
    seed: int = 0
    """Same seed, same text."""


@dataclass
class Generation:
    """One entry a prompt. ``tokens`` ends with the stop token where ``finished``; prompts are not included."""

    tokens: list[list[int]]
    log_probs: list[list[float]]
    finished: list[bool]


@dataclass(frozen=True)
class Step:
    """One new token of one row."""

    row: int
    token: int
    log_prob: float
    finished: bool


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
    temperature: float = 1.0,
    **settings: Any,
) -> Generation:
    """Continue every prompt until a stop token or ``max_new_tokens``. ``settings`` are further fields of ``Sampling``."""
    sampling = Sampling(temperature=temperature, **settings)
    result = Generation([[] for _ in prompts], [[] for _ in prompts], [False] * len(prompts))
    for step in stream(model, prompts, sampling, stop_ids=stop_ids, pad_id=pad_id):
        result.tokens[step.row].append(step.token)
        result.log_probs[step.row].append(step.log_prob)
        result.finished[step.row] = step.finished
    return result


def stream(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling],
    *,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
    closed: Collection[int] = (),
) -> Generator[Step, None, None]:
    """The new tokens as they are made, row by row within each position. The model's mode is left as it was.

    ``sampling`` is one for all rows, which then differ by their place, or one a row. A caller may add rows to ``closed``
    while iterating (a stop text was found): they get no further token.
    """
    if not prompts:
        return
    was_training = model.training
    model.eval()
    try:
        yield from _stream(model, prompts, _rows(model, prompts, sampling), frozenset(stop_ids), pad_id, closed)
    finally:
        model.train(was_training)


@dataclass
class _History:
    """What a row has said, for those that are penalised for it, and what its logits are shifted by."""

    seen: Tensor
    """``[vocabulary]``: occurs in the prompt or the reply."""
    counts: Tensor
    """Times that it occurs in the reply."""
    bias: Tensor

    def note(self, token: int) -> None:
        self.seen[token] = True
        self.counts[token] += 1


@dataclass(frozen=True, eq=False)
class Row:
    """A row's own settings, and what they need to know of it."""

    index: int
    sampling: Sampling
    budget: int
    uniforms: Tensor = field(repr=False)
    """A number in [0, 1) for each of its tokens, from a generator of its own."""
    history: _History | None = field(default=None, repr=False)

    @property
    def way(self) -> str:
        """How its token is chosen. Rows of one way are computed together: each way walks the vocabulary in an order of
        its own, so a row's way must not depend on its neighbours'."""
        limits = self.sampling
        if limits.temperature < COLDEST:
            return "likeliest"
        return "filtered" if limits.top_k or limits.top_p < 1 or limits.min_p > 0 else "all"


def make_row(model: Decoder, prompt: Sequence[int], limits: Sampling, index: int = 0, place: int = 0) -> Row:
    """A row that continues a prompt; ``place`` tells rows of one seed apart."""
    if not prompt:
        raise InputError("a prompt has no tokens", remedy="Start it with the beginning-of-text token.")
    if max(prompt) >= model.config.vocab_size or min(prompt) < 0:
        wrong = next(token for token in prompt if not 0 <= token < model.config.vocab_size)
        raise InputError(
            f"a prompt has token {wrong}; the model knows {model.config.vocab_size}",
            remedy="The tokenizer is not the model's own.",
        )
    budget = min(limits.max_new_tokens, model.config.max_position - len(prompt))
    if budget < 1:
        raise InputError(
            f"a prompt of {len(prompt)} tokens leaves no room in the model's {model.config.max_position} positions",
            remedy="Shorten the prompt.",
        )
    generator = torch.Generator().manual_seed((limits.seed * 1_000_003 + place) % (1 << 63))
    uniforms = torch.rand(budget, generator=generator, dtype=torch.float64)
    return Row(index, limits, budget, uniforms, _history(model, prompt, limits))


def _rows(model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]) -> list[Row]:
    one = isinstance(sampling, Sampling)
    settings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    return [
        make_row(model, prompt, limits, index, index if one else 0)
        for index, (prompt, limits) in enumerate(zip(prompts, settings, strict=True))
    ]


def _history(model: Decoder, prompt: Sequence[int], limits: Sampling) -> _History | None:
    penalised = limits.repetition_penalty != 1 or limits.presence_penalty or limits.frequency_penalty
    if not penalised and not limits.logit_bias:
        return None
    zeros = torch.zeros(model.config.vocab_size, device=model.device)
    seen, bias = zeros.bool(), zeros.clone()
    seen[list(prompt)] = True
    for token, value in limits.logit_bias:
        bias[token] = value
    return _History(seen, zeros, bias)


def _stream(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    rows: list[Row],
    stops: frozenset[int],
    pad_id: int,
    closed: Collection[int],
) -> Iterator[Step]:
    cache = model.new_cache(
        len(prompts), max(len(prompt) + row.budget for prompt, row in zip(prompts, rows, strict=True))
    )
    spared = stop_tokens(model, stops)
    following: Tensor | None = None
    for position in itertools.count():
        # Entered anew for each token: the mode must not leak to the caller while this iterator is suspended.
        with torch.inference_mode():
            hidden = _read(model, prompts, cache, pad_id) if following is None else model(following, cache=cache)[:, -1]
            logits = model.logits(hidden).float()
            tokens, log_probs = choose(logits, rows, spared, [position] * len(rows))
        drawn = tokens.tolist()
        for row, token, log_prob in zip(rows, drawn, log_probs.tolist(), strict=True):
            if math.isnan(log_prob):
                raise HeadwaterError(
                    "the model gives no finite probabilities",
                    remedy="Its weights are damaged, or too large for its type.",
                )
            if row.history is not None:
                row.history.note(token)
            yield Step(row.index, token, log_prob, token in stops)
        alive = [
            place
            for place, (row, token) in enumerate(zip(rows, drawn, strict=True))
            if token not in stops and position + 1 < row.budget and row.index not in closed
        ]
        if not alive:
            return
        with torch.inference_mode():
            following = tokens.unsqueeze(1)
            if len(alive) < len(rows):
                rows, following = [rows[place] for place in alive], following[alive]
                cache.keep_rows(alive)


def stop_tokens(model: Decoder, stops: Collection[int]) -> Tensor:
    """Tokens that end a reply, as far as the model has them."""
    return torch.tensor(sorted(stop for stop in stops if stop < model.config.vocab_size), device=model.device).long()


def _read(model: Decoder, prompts: Sequence[Sequence[int]], cache: KVCache, pad_id: int) -> Tensor:
    """Fill the cache with the prompts; the hidden state of each one's last token ``[B, hidden]``."""
    last: Tensor = torch.empty(len(prompts), model.config.hidden_size, dtype=cache.keys.dtype, device=model.device)
    for places, part, picked, ends in read_prompts(model, prompts, pad_id):
        last[places] = ends
        cache.adopt(part, places, picked)
    return last


def read_prompts(
    model: Decoder, prompts: Sequence[Sequence[int]], pad_id: int
) -> Iterator[tuple[list[int], KVCache, list[int], Tensor]]:
    """Some prompts at a time: their places, a cache, which of its rows each has, and the hidden states of their ends.

    Prompts go through together with those that fill as many whole vectors. Each is thus computed in the shape that it has
    alone: the kernels' sums over longer rows differ in their last bits, and a short prompt does no work for a long one. A
    prompt that stands several times (a group of replies is sampled to it) is read once.
    """
    widths: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for place, prompt in enumerate(prompts):
        alike = widths.setdefault(whole_blocks(len(prompt), PROMPT_BLOCK), {})
        alike.setdefault(tuple(prompt), []).append(place)
    for width, alike in widths.items():
        lengths = [len(prompt) for prompt in alike]
        rows = [[*prompt, *[pad_id] * (width - len(prompt))] for prompt in alike]
        part = model.new_cache(len(rows), width, lengths)
        hidden = model(torch.tensor(rows, device=model.device), cache=part)
        ends = hidden[torch.arange(len(rows), device=model.device), torch.tensor(lengths, device=model.device) - 1]
        picked = [row for row, places in enumerate(alike.values()) for _ in places]
        yield [place for places in alike.values() for place in places], part, picked, ends[picked]


def choose(logits: Tensor, rows: Sequence[Row], spared: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The next token of each row, and its log-probability under the model. ``positions``: how many tokens each row has
    already; ``spared``: tokens that no repetition penalty is for."""
    model_log_probs = logits.log_softmax(-1)
    logits = _adjusted(logits, rows, spared)
    tokens = logits.argmax(-1)
    for way in ("all", "filtered"):
        places = [place for place, row in enumerate(rows) if row.way == way]
        if places:
            some, at = [rows[place] for place in places], [positions[place] for place in places]
            tokens[places] = _sample(logits[places], some, at)
    return tokens, model_log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1)


def _adjusted(logits: Tensor, rows: Sequence[Row], spared: Tensor) -> Tensor:
    """Logits shifted by the rows' biases, and those of tokens that occurred before lowered. Every turn in a prompt ends
    with a stop token: if it counted as said before, replies would not end."""
    places = [place for place, row in enumerate(rows) if row.history is not None]
    if not places:
        return logits
    some = [rows[place].sampling for place in places]
    histories = [history for row in rows if (history := row.history) is not None]
    seen, counts, bias = (
        torch.stack([getattr(history, name) for history in histories]) for name in ("seen", "counts", "bias")
    )
    before = logits[places]
    penalty = _column([each.repetition_penalty for each in some], logits)
    lowered = torch.where(seen, torch.where(before > 0, before / penalty, before * penalty), before)
    spares = torch.tensor([not each.penalise_stops for each in some], device=logits.device).unsqueeze(1)
    lowered[:, spared] = torch.where(spares, before[:, spared], lowered[:, spared])
    lowered -= _column([each.frequency_penalty for each in some], logits) * counts
    lowered -= _column([each.presence_penalty for each in some], logits) * (counts > 0)
    adjusted = logits.clone()
    adjusted[places] = lowered + bias
    return adjusted


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _sample(logits: Tensor, rows: Sequence[Row], positions: Sequence[int]) -> Tensor:
    """Draw by the inverse of the cumulative distribution, for rows of one way.

    In float64: a float32 cumulative sum over a large vocabulary can end below the number drawn.
    """
    logits = logits.double()
    probabilities = (logits / _column([row.sampling.temperature for row in rows], logits)).softmax(-1)
    order = None
    if rows[0].way == "filtered":
        probabilities, order = _filter(probabilities, rows)
    cumulative = probabilities.cumsum(-1)
    drawn = [float(row.uniforms[position]) for row, position in zip(rows, positions, strict=True)]
    uniforms = torch.tensor(drawn, dtype=torch.float64, device=logits.device)
    target = uniforms.unsqueeze(1) * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, target, right=True)
    # Rounding at the far end must not land on a token that cannot be drawn.
    last = (probabilities > 0).int().cumsum(-1).argmax(-1, keepdim=True)
    choice = torch.minimum(choice, last)
    tokens = choice if order is None else order.gather(1, choice)
    return tokens.squeeze(1)


FEW = 256
"""Tokens that are sorted at first: as a rule the filters leave no more, and sorting a vocabulary takes longer than a small
model's forward pass."""


def _filter(probabilities: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """The likeliest tokens' probabilities, sorted, and their ids. What each row's top-k, top-p and min-p exclude is 0 or
    not there; the likeliest always stays."""
    vocabulary = probabilities.shape[-1]
    top_k, top_p, min_p = (
        _column([getattr(row.sampling, name) for row in rows], probabilities) for name in ("top_k", "top_p", "min_p")
    )
    unlimited = (top_k == 0) | (top_k >= vocabulary)
    limits = torch.where(unlimited, vocabulary, top_k)
    whole = probabilities.sum(-1, keepdim=True)
    most = int(limits.max())
    likeliest, order = probabilities.topk(min(FEW, most), dim=-1)
    for size in (4 * FEW, most):
        width = likeliest.shape[-1]
        reached = (top_p < 1) & (likeliest.cumsum(-1)[:, -1:] >= top_p * whole)
        none_left = unlimited & (reached | (likeliest[:, -1:] < min_p * likeliest[:, :1]))
        short = ~((limits <= width) | none_left).squeeze(1)
        if width < min(size, most) and bool(short.any()):
            more = min(size, most)
            likeliest, order = (F.pad(each, (0, more - width)) for each in (likeliest, order))
            likeliest[short], order[short] = probabilities[short].topk(more, dim=-1)
    places = torch.arange(likeliest.shape[-1], device=probabilities.device)
    likeliest = likeliest.masked_fill(places >= limits, 0)
    mass = torch.where(unlimited, whole, likeliest.sum(-1, keepdim=True))
    before = likeliest.cumsum(-1) - likeliest
    likeliest = likeliest.masked_fill((before >= top_p * mass) & (top_p < 1), 0)
    return likeliest.masked_fill(likeliest < min_p * likeliest[:, :1], 0), order
