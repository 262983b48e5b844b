"""A model folder as something that reads and writes text: tokenizer, decoder, special tokens, chat template.

Text is encoded by the folder's own ``tokenizer.json``, so a folder from anywhere works as well as one made here.
Control tokens in text that a person typed are ordinary characters: nobody ends the user's turn but the template.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from infra.errors import InputError
from training.generate import Sampling, stream
from training.hub_format import SpecialTokens, load_model, special_tokens
from training.model import Decoder

UNFINISHED = "\ufffd"
"""What a decoder shows for the first bytes of a character whose last are still to come."""


@dataclass(frozen=True)
class TextModel:
    """A loaded model folder."""

    decoder: Decoder
    tokenizer: Tokenizer
    special: SpecialTokens

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids, nothing added. ``control`` reads ``<|user|>`` and the like as the tokens they name."""
        self.tokenizer.encode_special_tokens = not control
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def without_control(self, text: str) -> str:
        """The text with a space inside the names of control tokens, for where it will be read with ``control``."""
        for token in self.tokenizer.get_added_tokens_decoder().values():
            text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream_text(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The continuation of a prompt, piece by piece; no piece ends inside a character."""
        steps = stream(self.decoder, [prompt], sampling, stop_ids=self.special.stops, pad_id=self.special.pad)
        yield from decode_stream(self, (step.token for step in steps if not step.finished))

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Plain continuation of a text, as a pretrained model sees it."""
        return self.stream_text([self.special.bos, *self.encode(prompt)], sampling)


def decode_stream(model: TextModel, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come. All are decoded each time: a piece's text depends on the pieces before it."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = model.decode(ids)
        if not text.endswith(UNFINISHED) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    text = model.decode(ids)
    if len(text) > len(shown):
        yield text[len(shown) :]


def load_text_model(folder: Path, device: str | None = None) -> TextModel:
    """Open a model folder: on the GPU in bf16 if there is one, otherwise on the CPU in float32."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    decoder = load_model(folder, torch.float32 if device == "cpu" else torch.bfloat16, device).eval()
    return TextModel(decoder, load_tokenizer(folder), special_tokens(folder))


def load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise InputError("there is no tokenizer.json", where=str(folder), remedy="Give a complete model folder.")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"tokenizer.json cannot be read: {error}", where=str(folder)) from error
