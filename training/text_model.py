"""A model folder as something that reads and writes text: tokenizer, decoder, special tokens, chat template.

Text is encoded by the folder's own ``tokenizer.json``, so a folder from anywhere works as well as one made here.
Control tokens in text that a person typed are ordinary characters: nobody ends the user's turn but the template.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer

from infra.errors import InputError
from training.chat_template import ChatFormat
from training.generate import Sampling, stream
from training.hub_format import load_model
from training.hub_tokenizer import (
    UNREADABLE,
    SpecialTokens,
    decode,
    encode,
    load_tokenizer,
    special_tokens,
    token_bytes,
)
from training.model import Decoder

TAIL = 8
"""Tokens of a prompt that the text of a continuation is read together with."""


@dataclass(frozen=True)
class TextModel:
    """A loaded model folder."""

    decoder: Decoder
    tokenizer: Tokenizer
    special: SpecialTokens
    _formats: dict[str, ChatFormat] = field(default_factory=dict, init=False, repr=False, compare=False)
    _bytes: dict[int, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def encode(self, text: str) -> list[int]:
        """Token ids, nothing added. Never a control token, whatever the text spells."""
        return encode(self.tokenizer, text)

    def without_control(self, text: str) -> str:
        """Text that says nothing but itself in a conversation: any text, for names of control tokens are read as text.
        For programs outside this repository, written when that was not so."""
        return text

    def chat_format(self, template: str) -> ChatFormat:
        """The template with this model's tokenizer; made once."""
        if template not in self._formats:
            self._formats[template] = ChatFormat(self.tokenizer, template, self.special)
        return self._formats[template]

    def decode(self, ids: Sequence[int]) -> str:
        return decode(self.tokenizer, ids)

    def continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """What some ids add to the text of a prompt. Alone they may read otherwise: many tokenizers take a space from
        the beginning of a text, which is one that the continuation needs."""
        before = prompt[-TAIL:]
        return self.decode([*before, *ids])[len(self.whole_characters(before)) :]

    def whole_characters(self, ids: Sequence[int]) -> str:
        """The text of some ids without a character that their last bytes only begin: what follows completes it, and a prompt
        that is given as ids may end anywhere."""
        text = self.decode(ids)
        if not text.endswith(UNREADABLE):
            return text
        written = b"".join(map(self.token_bytes, ids[-4:])).endswith(UNREADABLE.encode())
        return text if written else text[:-1]

    @cached_property
    def controls(self) -> frozenset[int]:
        """Tokens that stand for no text."""
        added = self.tokenizer.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for inside a text; a control token's name. Part of a character is not readable by itself."""
        if token not in self._bytes:
            self._bytes[token] = token_bytes(self.tokenizer, token)
        return self._bytes[token]

    def stream_text(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The continuation of a prompt, piece by piece; no piece ends inside a character."""
        steps = stream(self.decoder, [prompt], sampling, stop_ids=self.special.stops, pad_id=self.special.filler)
        yield from until(
            decode_stream(self, (step.token for step in steps if not step.finished), prompt[-TAIL:]), sampling.stop
        )

    def write(self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling], batch_size: int = 16) -> list[str]:
        """The continuations of many prompts, each by settings, seed and stop texts of its own."""
        texts: list[str] = []
        for first in range(0, len(prompts), batch_size):
            few = slice(first, first + batch_size)
            texts += self._write(prompts[few], sampling[few])
        return texts

    def _write(self, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> list[str]:
        rows: list[list[int]] = [[] for _ in prompts]
        closed: set[int] = set()
        ends, filler = self.special.stops, self.special.filler
        for step in stream(self.decoder, prompts, sampling, stop_ids=ends, pad_id=filler, closed=closed):
            if step.finished:
                continue
            rows[step.row].append(step.token)
            if sampling[step.row].stop:
                text = self.continuation(prompts[step.row], rows[step.row])
                if any(stop in text for stop in sampling[step.row].stop):
                    closed.add(step.row)
        texts = [self.continuation(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        return ["".join(until([text], how.stop)) for text, how in zip(texts, sampling, strict=True)]

    def prompt(self, text: str) -> list[int]:
        """A text's ids as the model saw the beginnings of texts: after BOS where its tokenizer puts one."""
        ids = [*self.special.prefix, *self.encode(text)] or self.special.beginning
        if not ids:
            raise InputError("the prompt is empty and the model has no token to begin with", remedy="Give some text.")
        return ids

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Plain continuation of a text, as a pretrained model sees it."""
        return self.stream_text(self.prompt(prompt), sampling)


class TextReader:
    """The text of a reply, token by token, after the tokens of ``before``.

    A piece's text depends on the pieces before it, so a token is decoded behind the last few. What may be the first bytes
    of a character is held back until its last have come, or no more will.
    """

    def __init__(self, model: TextModel, before: Sequence[int] = ()) -> None:
        self._model = model
        self._ids = list(before[-TAIL:])
        self._shown = model.whole_characters(self._ids)

    def read(self, token: int) -> str:
        """What is sure of the text that a token adds."""
        if len(self._ids) >= 4 * TAIL:
            del self._ids[:-TAIL]
            self._shown = self._sure()
        self._ids.append(token)
        return self._new(self._sure())

    def rest(self) -> str:
        """What no further token will complete."""
        return self._new(self._model.decode(self._ids))

    def _sure(self) -> str:
        text = self._model.decode(self._ids)
        return text[:-1] if text.endswith(UNREADABLE) else text

    def _new(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:
            self._shown = text
        return new


def decode_stream(model: TextModel, tokens: Iterable[int], before: Sequence[int] = ()) -> Iterator[str]:
    """Text of tokens as they come, after those of ``before``."""
    reader = TextReader(model, before)
    for token in tokens:
        if piece := reader.read(token):
            yield piece
    if piece := reader.rest():
        yield piece


class StopReader:
    """Text up to the first of the stop texts. What may be the beginning of one is held back until that is known."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self.held = ""
        self.stopped = False

    def read(self, piece: str) -> str:
        """What is sure to stand before a stop text; after ``stopped`` there is no more."""
        text = self.held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self.held = ""
            return text[: min(found)]
        sure = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self.held = text[sure:]
        return text[:sure]


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first of the stop texts."""
    reader = StopReader(stops)
    for piece in pieces:
        if text := reader.read(piece):
            yield text
        if reader.stopped:
            return
    if reader.held:
        yield reader.held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of ``stop`` that ``text`` ends with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def load_text_model(folder: Path, device: str | None = None) -> TextModel:
    """Open a model folder: on the GPU in bf16 if there is one, otherwise on the CPU in float32."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    decoder = load_model(folder, torch.float32 if device == "cpu" else torch.bfloat16, device).eval()
    tokenizer = load_tokenizer(folder)
    return TextModel(decoder, tokenizer, special_tokens(folder, tokenizer))
