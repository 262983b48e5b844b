"""Who says what, and the tokens of it: the words that all of alignment shares."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

ROLES = ("system", "user", "assistant")
END = "<|end|>"


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    id: str
    messages: tuple[Message, ...]

    @property
    def held_out_rank(self) -> float:
        """A fixed number in [0, 1) from the id: the split does not move when conversations are added or reordered."""
        digest = hashlib.blake2b(self.id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each whether the loss counts it: whether the model must learn to produce it."""

    ids: list[int]
    loss_mask: list[bool]

    @property
    def taught(self) -> list[bool]:
        """The loss mask, by the name that programs outside this repository read."""
        return self.loss_mask


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer here."""

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token_id(self, name: str) -> int: ...


@runtime_checkable
class Templated(Protocol):
    """The tokenizer of a model from elsewhere, whose chats have a form of their own."""

    @property
    def pad_id(self) -> int: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    @property
    def stop_ids(self) -> list[int]: ...

    def chat(self, messages: Sequence[Message], learnt: Sequence[bool]) -> Rendered:
        """A whole chat; the loss counts the words and the end of the ``learnt`` messages."""
        ...

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A chat up to where the assistant's words begin."""
        ...

    def reply(self, text: str) -> list[int]:
        """An assistant's words and their end, as they follow a prompt."""
        ...


AnyTokenizer = ChatTokenizer | Templated
