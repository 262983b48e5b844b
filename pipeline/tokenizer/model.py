"""Text to ids and back, without loss.

The model is SentencePiece BPE with byte fallback and no normalisation at all: what ``encode`` reads, ``decode`` gives
back byte for byte. Two details make that true:

* no space is put before the text, and none is removed;
* SentencePiece writes a space as U+2581, so a literal U+2581 in the text would come back as a space. It is spelt by
  its three byte tokens instead.

The special tokens are control symbols: they have ids, but no text is ever encoded to them. A page that contains
``<|assistant|>`` is a page about chat templates, not a turn of a chat; whoever builds a chat adds the ids.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import sentencepiece

from infra.errors import InputError
from infra.store.files import write_bytes

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = (PAD, UNK, BOS, EOS, SYSTEM, USER, ASSISTANT, END)
"""In id order: a special token's id is its place here."""

MODEL_FILE = "tokenizer.model"
SPACE = "\u2581"


class Tokenizer:
    """A trained vocabulary. Use ``Tokenizer.load``."""

    def __init__(self, model: bytes, where: str = MODEL_FILE) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise InputError("the file is not a SentencePiece model", where=where) from error
        self._model = model
        found = tuple(self._processor.id_to_piece(index) for index in range(len(SPECIALS)))
        if found != SPECIALS:
            raise InputError(
                f"the vocabulary begins with {', '.join(found)}, not with the special tokens {', '.join(SPECIALS)}",
                where=where,
                remedy="Train it with the tokenizer stage.",
            )
        self._space_bytes = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read ``tokenizer.model`` from a dataset's data folder or an exported model's folder."""
        path = Path(folder) / MODEL_FILE
        try:
            return cls(path.read_bytes(), str(path))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError("there is no tokenizer", where=str(path), remedy="Run the tokenizer stage.") from None

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.model`` and the files that ``transformers.AutoTokenizer`` reads, with identical ids."""
        from pipeline.tokenizer.hugging_face import hub_files

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for name, data in {MODEL_FILE: self._model, **hub_files(self)}.items():
            write_bytes(str(path / name), data)

    @property
    def vocab_size(self) -> int:
        return int(self._processor.get_piece_size())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the model and the special tokens: what token shards are tied to."""
        return hashlib.sha256(self._model + "\0".join(SPECIALS).encode()).hexdigest()

    @property
    def pad_id(self) -> int:
        return SPECIALS.index(PAD)

    @property
    def bos_id(self) -> int:
        return SPECIALS.index(BOS)

    @property
    def eos_id(self) -> int:
        return SPECIALS.index(EOS)

    def token_id(self, name: str) -> int:
        """The id of a special token by its name, e.g. ``<|user|>``."""
        if name not in SPECIALS:
            raise KeyError(f"{name!r} is not a special token; there are {', '.join(SPECIALS)}")
        return SPECIALS.index(name)

    def control_name(self, token: int) -> str:
        """The name of a special token; empty for any other."""
        return SPECIALS[token] if token < len(SPECIALS) else ""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without ``<s>`` or ``</s>``. Never a special token, whatever the text says."""
        first, *rest = (self._processor.encode(encodable(part)) for part in text.split(SPACE))
        return [*first, *(token for part in rest for token in (*self._space_bytes, *part))]

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """Many texts at once. ``threads`` changes the time, never the ids."""
        if any(SPACE in text for text in texts):
            return [self.encode(text) for text in texts]
        ids: list[list[int]] = self._processor.encode([encodable(text) for text in texts], num_threads=threads)
        return ids

    def decode(self, ids: Iterable[int], *, specials: bool = False) -> str:
        """The text of some ids. Special tokens are left out, or spelt with ``specials``.

        Ids that stop in the middle of a character end in U+FFFD.
        """
        return self.decode_bytes(ids, specials=specials).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, specials: bool = False) -> bytes:
        """The UTF-8 bytes of some ids, for callers that show text while it is being generated."""
        table, given = self.token_bytes, list(map(int, ids))
        if wrong := [index for index in given if not 0 <= index < len(table)]:
            raise InputError(
                f"{wrong[0]} is no id of this tokenizer",
                remedy=f"Its ids are 0 to {len(table) - 1}; -100 in labels stands for no token.",
            )
        if not specials:
            return b"".join(table[index] for index in given)
        return b"".join(SPECIALS[index].encode() if index < len(SPECIALS) else table[index] for index in given)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each token stands for; none for special tokens."""
        return [self._bytes_of(index) for index in range(self.vocab_size)]

    def _bytes_of(self, index: int) -> bytes:
        if index < len(SPECIALS):
            return b""
        piece: str = self._processor.id_to_piece(index)
        return bytes([int(piece[3:5], 16)]) if self.is_byte(index) else piece.replace(SPACE, " ").encode()

    def is_byte(self, index: int) -> bool:
        """Whether a token stands for one byte of a character that is not in the vocabulary."""
        return bool(self._processor.is_byte(index))

    def pieces(self) -> list[tuple[str, float]]:
        """Every token as SentencePiece writes it, with its score (the order of merging), by id."""
        return [
            (self._processor.id_to_piece(index), self._processor.get_score(index)) for index in range(self.vocab_size)
        ]


def encodable(text: str) -> str:
    """Lone surrogates (from a terminal or a careless JSON file) have no UTF-8 form and become ``?``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
