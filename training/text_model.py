"""A model folder as something that reads and writes text: tokenizer, decoder, special tokens, chat template.

Text is encoded by the folder's own ``tokenizer.json``, so a folder from anywhere works as well as one made here.
Control tokens in text that a person typed are ordinary characters: nobody ends the user's turn but the template.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer

from infra.errors import InputError
from training.chat_template import ChatFormat
from training.generate import Sampling, stream
from training.hub_format import load_model
from training.hub_tokenizer import UNREADABLE, SpecialTokens, decode, encode, load_tokenizer, special_tokens
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

    def encode(self, text: str) -> list[int]:
        """Token ids, nothing added. Never a control token, whatever the text spells."""
        return encode(self.tokenizer, text)

    def without_control(self, text: str) -> str:
        """Text that says nothing but itself in a conversation: any text, for names of control tokens are read as text."""
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
        return self.decode([*before, *ids])[len(self.decode(before)) :]

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
        ids = [*self.special.prefix, *self.encode(text)]
        if ids:
            return ids
        beginnings = [token for token in (self.special.bos, self.special.eos) if token is not None]
        if not beginnings:
            raise InputError("the prompt is empty and the model has no token to begin with", remedy="Give some text.")
        return beginnings[:1]

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Plain continuation of a text, as a pretrained model sees it."""
        return self.stream_text(self.prompt(prompt), sampling)


def decode_stream(model: TextModel, tokens: Iterable[int], before: Sequence[int] = ()) -> Iterator[str]:
    """Text of tokens as they come, after those of ``before``. All are decoded each time: a piece's text depends on the
    pieces before it.

    What may be the first bytes of a character is held back until its last have come, or no more will.
    """
    ids = list(before)
    shown = model.decode(ids)
    for token in tokens:
        ids.append(token)
        text = model.decode(ids)
        if not text.endswith(UNREADABLE) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = model.decode(ids)
    if len(text) > len(shown):
        yield text[len(shown) :]


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first of the stop texts. What may be the beginning of one is held back until that is known."""
    held = ""
    for piece in pieces:
        held += piece
        found = [at for stop in stops if stop and (at := held.find(stop)) >= 0]
        if found:
            if text := held[: min(found)]:
                yield text
            return
        kept = max((_overlap(held, stop) for stop in stops), default=0)
        if text := held[: len(held) - kept]:
            yield text
        held = held[len(held) - kept :]
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of ``stop`` that ``text`` ends with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def load_text_model(folder: Path, device: str | None = None) -> TextModel:
    """Open a model folder: on the GPU in bf16 if there is one, otherwise on the CPU in float32."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    decoder = load_model(folder, torch.float32 if device == "cpu" else torch.bfloat16, device).eval()
    tokenizer = load_tokenizer(folder)
    return TextModel(decoder, tokenizer, special_tokens(folder, tokenizer))
