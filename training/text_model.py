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
from training.hub_tokenizer import UNREADABLE, SpecialTokens, decode, load_tokenizer, special_tokens
from training.model import Decoder


@dataclass(frozen=True)
class TextModel:
    """A loaded model folder."""

    decoder: Decoder
    tokenizer: Tokenizer
    special: SpecialTokens
    _formats: dict[str, ChatFormat] = field(default_factory=dict, init=False, repr=False, compare=False)

    def encode(self, text: str) -> list[int]:
        """Token ids, nothing added. Never a control token, whatever the text spells."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

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

    def stream_text(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The continuation of a prompt, piece by piece; no piece ends inside a character."""
        steps = stream(self.decoder, [prompt], sampling, stop_ids=self.special.stops, pad_id=self.special.filler)
        yield from decode_stream(self, (step.token for step in steps if not step.finished))

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


def decode_stream(model: TextModel, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come. All are decoded each time: a piece's text depends on the pieces before it.

    What may be the first bytes of a character is held back until its last have come, or no more will.
    """
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = model.decode(ids)
        if not text.endswith(UNREADABLE) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = model.decode(ids)
    if len(text) > len(shown):
        yield text[len(shown) :]


def load_text_model(folder: Path, device: str | None = None) -> TextModel:
    """Open a model folder: on the GPU in bf16 if there is one, otherwise on the CPU in float32."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    decoder = load_model(folder, torch.float32 if device == "cpu" else torch.bfloat16, device).eval()
    tokenizer = load_tokenizer(folder)
    return TextModel(decoder, tokenizer, special_tokens(folder, tokenizer))
