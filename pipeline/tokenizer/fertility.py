"""What a vocabulary costs on real text: tokens a word, bytes a token, how often it spells in bytes, and proofs.

Two things are proved on every text measured: decoding gives back the very text, and Hugging Face's tokenizer gives the
very ids.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer as HubTokenizer

from pipeline.tokenizer.model import Tokenizer


@dataclass
class SourceFertility:
    """Sums over the texts of one source."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    byte_tokens: int = 0
    lossy: int = 0
    hub_differs: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "tokens_per_word": round(self.tokens / self.words, 4) if self.words else None,
            "bytes_per_token": round(self.bytes / self.tokens, 4) if self.tokens else None,
            "byte_token_share": round(self.byte_tokens / self.tokens, 6) if self.tokens else None,
        }


def measure(tokenizer: Tokenizer, hub: HubTokenizer, texts: Iterable[str], limit: int) -> SourceFertility:
    """Measure texts until ``limit`` bytes are read."""
    found = SourceFertility()
    bytes_ids = {index for index in range(tokenizer.vocab_size) if tokenizer.is_byte(index)}
    for text in texts:
        if found.bytes >= limit:
            break
        ids = tokenizer.encode(text)
        found.documents += 1
        found.bytes += len(text.encode())
        found.words += len(text.split())
        found.tokens += len(ids)
        found.byte_tokens += sum(index in bytes_ids for index in ids)
        found.lossy += tokenizer.decode(ids) != text
        found.hub_differs += hub.encode(text, add_special_tokens=False).ids != ids
    return found
