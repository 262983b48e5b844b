"""Sampling text from a decoder: batched, with a key/value cache, reproducible.

Prompts of unequal length are padded on the left. Rows that have ended leave the batch, so a long straggler costs only
itself. Every row draws from a generator seeded by (seed, row): what a row becomes depends neither on the other rows
nor on when they end.

Two log-probabilities are kept of each sampled token: under the model itself (``log_probs``: temperature 1, nothing
filtered; what policy optimisation compares) and under the distribution it was drawn from (``sample_log_probs``).
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from infra.config import Config
from infra.errors import InputError
from training.model import Decoder


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
    seed: int = 0
    """Same seed, same text."""


@dataclass
class Generation:
    """One entry a prompt. ``tokens`` ends with the stop token where ``finished``; prompts are not included."""

    tokens: list[list[int]]
    log_probs: list[list[float]]
    sample_log_probs: list[list[float]]
    finished: list[bool]


@dataclass(frozen=True)
class Step:
    """One new token of one row."""

    row: int
    token: int
    log_prob: float
    sample_log_prob: float
    finished: bool


@dataclass
class _Batch:
    """The rows still being written."""

    rows: Tensor
    seen: Tensor | None
    uniforms: Tensor = field(repr=False)


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
    seed: int = 0,
) -> Generation:
    """Continue every prompt until a stop token or ``max_new_tokens``."""
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    number = len(prompts)
    result = Generation(
        [[] for _ in range(number)], [[] for _ in range(number)], [[] for _ in range(number)], [False] * number
    )
    for step in stream(model, prompts, sampling, stop_ids=stop_ids, pad_id=pad_id):
        result.tokens[step.row].append(step.token)
        result.log_probs[step.row].append(step.log_prob)
        result.sample_log_probs[step.row].append(step.sample_log_prob)
        result.finished[step.row] = step.finished
    return result


def stream(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: Sequence[int] = (),
    pad_id: int = 0,
) -> Generator[Step, None, None]:
    """The new tokens as they are made, row by row within each position. The model's mode is left as it was."""
    if not prompts:
        return
    was_training = model.training
    model.eval()
    try:
        yield from _stream(model, prompts, sampling, frozenset(stop_ids), pad_id)
    finally:
        model.train(was_training)


def _stream(
    model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling, stops: frozenset[int], pad_id: int
) -> Iterator[Step]:
    longest = max(len(prompt) for prompt in prompts)
    if min(len(prompt) for prompt in prompts) == 0:
        raise InputError("a prompt has no tokens", remedy="Start it with the beginning-of-text token.")
    budget = min(sampling.max_new_tokens, model.config.max_position - longest)
    if budget < 1:
        raise InputError(
            f"a prompt of {longest} tokens leaves no room in the model's {model.config.max_position} positions",
            remedy="Shorten the prompt.",
        )
    device = model.device
    inputs = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    batch = _Batch(
        torch.arange(len(prompts)), _occurrences(model, prompts, sampling), _uniforms(len(prompts), sampling)
    )
    cache = model.new_cache(len(prompts), longest + budget, starts if bool(starts.any()) else None)
    for position in range(budget):
        # Entered anew for each token: the mode must not leak to the caller while this iterator is suspended.
        with torch.inference_mode():
            logits = model.logits(model(inputs, cache=cache)[:, -1]).float()
            tokens, log_probs, sample_log_probs = _choose(logits, batch, sampling, position)
        drawn = tokens.tolist()
        last = position == budget - 1
        for row, token, log_prob, drawn_log_prob in zip(
            batch.rows.tolist(), drawn, log_probs.tolist(), sample_log_probs.tolist(), strict=True
        ):
            yield Step(row, token, log_prob, drawn_log_prob, token in stops)
        if last:
            return
        alive = [index for index, token in enumerate(drawn) if token not in stops]
        if not alive:
            return
        with torch.inference_mode():
            inputs = tokens.unsqueeze(1)
            if len(alive) < len(drawn):
                inputs = inputs[alive]
                _keep(batch, alive)
                cache.keep_rows(torch.tensor(alive, device=device))


def _keep(batch: _Batch, alive: list[int]) -> None:
    batch.rows = batch.rows[alive]
    batch.uniforms = batch.uniforms[alive]
    if batch.seen is not None:
        batch.seen = batch.seen[alive]


def _occurrences(model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Tensor | None:
    """Which tokens occur in each prompt; only needed for the repetition penalty."""
    if sampling.repetition_penalty == 1.0:
        return None
    seen = torch.zeros(len(prompts), model.config.vocab_size, dtype=torch.bool, device=model.device)
    for row, prompt in enumerate(prompts):
        seen[row, list(prompt)] = True
    return seen


def _uniforms(rows: int, sampling: Sampling) -> Tensor:
    """One number in [0, 1) for each row and position, each row from a generator of its own."""
    drawn = []
    for row in range(rows):
        generator = torch.Generator().manual_seed((sampling.seed * 1_000_003 + row) % (1 << 63))
        drawn.append(torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(drawn)


def _choose(logits: Tensor, batch: _Batch, sampling: Sampling, position: int) -> tuple[Tensor, Tensor, Tensor]:
    """The next token of each row, its log-probability under the model, and under the distribution it is drawn from."""
    model_log_probs = logits.log_softmax(-1)
    if batch.seen is not None:
        penalty = sampling.repetition_penalty
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(batch.seen, penalised, logits)
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        sample_log_probs = torch.zeros(len(tokens), device=logits.device)
    else:
        tokens, sample_log_probs = _sample(logits / sampling.temperature, sampling, batch.uniforms[:, position])
    if batch.seen is not None:
        batch.seen.scatter_(1, tokens.unsqueeze(1), True)
    return tokens, model_log_probs.gather(1, tokens.unsqueeze(1)).squeeze(1), sample_log_probs


def _sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw by the inverse of the cumulative distribution.

    In float64: a float32 cumulative sum over a large vocabulary can end below the number drawn.
    """
    probabilities = logits.double().softmax(-1)
    order = None
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p > 0:
        kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
        probabilities, order = probabilities.topk(kept, dim=-1)
        probabilities = _filter(probabilities, sampling)
    cumulative = probabilities.cumsum(-1)
    target = uniforms.to(logits.device).unsqueeze(1) * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, target, right=True)
    # Rounding at the far end must not land on a token that cannot be drawn.
    last = (probabilities > 0).int().cumsum(-1).argmax(-1, keepdim=True)
    choice = torch.minimum(choice, last)
    chosen = probabilities.gather(1, choice).squeeze(1)
    tokens = choice if order is None else order.gather(1, choice)
    return tokens.squeeze(1), (chosen / cumulative[:, -1]).log().float()


def _filter(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """Zero what top-p and min-p exclude from sorted probabilities; the likeliest always stays."""
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p * probabilities.sum(-1, keepdim=True), 0)
    if sampling.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities[:, :1], 0)
    return probabilities
