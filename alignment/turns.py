"""Who says what, and the tokens of it: the words that all of alignment shares."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
END = "<|end|>"
Call = Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """A turn. Who may call tools has them told in its leading system turn, which may be without words of its own."""

    role: str
    content: str
    tools: tuple[Call, ...] = ()
    """Of a leading system turn: the functions that the assistant may call, as JSON schemas."""
    tool_calls: tuple[Call, ...] = ()
    """Of an assistant: ``{type, function: {name, arguments}}``; arguments are an object."""
    name: str = ""
    """Of a tool: the function whose result this is."""
    tool_call_id: str = ""
    learn: bool = True
    """Of an assistant: whether the words are an example, or stand there to be answered only (OpenAI's ``weight: 0``)."""

    @property
    def says(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.content.strip() or self.tool_calls)


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


def spoken(reply: str) -> str:
    """What is said behind the thoughts: nothing where a reply was cut off in them."""
    said = reply.rpartition("</think>")[2]
    return said.partition("<think>")[0]
