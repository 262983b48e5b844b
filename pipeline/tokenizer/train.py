"""Training the vocabulary: SentencePiece BPE, with settings that make it lossless and its bytes reproducible."""

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from infra.errors import ConfigError, HeadwaterError, InputError
from pipeline.tokenizer.model import ASSISTANT, BOS, END, EOS, PAD, SPACE, SPECIALS, SYSTEM, UNK, USER

MAX_SENTENCE_BYTES = 16_384
"""SentencePiece silently skips longer sentences, so longer texts are handed over in passages."""

ALWAYS_COVERED = "\t\n" + "".join(map(chr, range(0x21, 0x7F)))
"""Printable ASCII never falls back to bytes, however rare a character is in the sample."""

SMALLEST = len(SPECIALS) + 256 + len(ALWAYS_COVERED)
"""Special tokens, bytes, and ``ALWAYS_COVERED``."""

_TOO_LARGE = re.compile(r"set it to a value <= (\d+)")
_TOO_SMALL = re.compile(r"required_chars\. \d+ vs (\d+)")


def train_model(texts: Iterable[str], vocab_size: int, character_coverage: float, max_piece_length: int) -> bytes:
    """The serialised model. Raises ConfigError when the texts cannot fill, or not fit in, ``vocab_size``."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(passage for text in texts for passage in passages(text)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            required_chars=ALWAYS_COVERED,
            max_sentencepiece_length=max_piece_length,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            pad_piece=PAD,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            control_symbols=[SYSTEM, USER, ASSISTANT, END],
            max_sentence_length=MAX_SENTENCE_BYTES,
            # The number of threads is written into the model: any other value gives other bytes.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size) from error
    return model.getvalue()


def passages(text: str) -> Iterator[str]:
    """The text in passages that SentencePiece accepts, cut after white space where there is any."""
    # A character takes at most four bytes, and the space mark three.
    limit = MAX_SENTENCE_BYTES // 4
    # U+2581 is SentencePiece's own sign for a space; a sentence with it would be skipped whole.
    text = text.replace(SPACE, " ")
    start = 0
    while start < len(text):
        end = min(start + limit, len(text))
        if end < len(text):
            cut = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
            end = cut + 1 if cut > start else end
        yield text[start:end]
        start = end


def _explain(message: str, vocab_size: int) -> HeadwaterError:
    if found := _TOO_LARGE.search(message):
        return ConfigError(
            f"the sample is too small for a vocabulary of {vocab_size}",
            where="tokenizer.vocab_size",
            remedy=f"Set it to at most {found[1]}, or give the tokenizer more text."
            if int(found[1]) >= SMALLEST
            else "Give the tokenizer more text.",
        )
    if found := _TOO_SMALL.search(message):
        return ConfigError(
            f"a vocabulary of {vocab_size} has no room for the characters of the corpus",
            where="tokenizer.vocab_size",
            remedy=f"Set it above {found[1]}, or lower tokenizer.character_coverage.",
        )
    if "sentences_.empty()" in message:
        return InputError("there is no text to train a tokenizer on", remedy="Check what the earlier stages kept.")
    return HeadwaterError(f"SentencePiece could not train the tokenizer: {message.strip()}", where="tokenizer")
