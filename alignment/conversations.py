"""Conversations as training material: who speaks, what the model must learn to say, and how rows are filled.

A conversation is rendered turn by turn, each turn closed by ``<|end|>``:

    <s> <|user|> hello <|end|> <|assistant|> hi there <|end|> <|user|> ...

The model is taught the assistant's words and the ``<|end|>`` after them: without that token in the loss it never
learns to stop, and the same happens when padding shares an id with it. Everything else is context.

Pieces are packed several to a row. Each carries its own segment number and its own positions, so that attention never
crosses from one conversation into another.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infra.errors import InputError

ROLES = ("system", "user", "assistant")
END = "<|end|>"


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

    def token_id(self, name: str) -> int: ...


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


@dataclass
class Reading:
    """What became of the lines of a conversation file."""

    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1


def read_conversations(path: Path, reading: Reading | None = None) -> Iterator[Conversation]:
    """Stream ``{id, messages: [{role, content}]}`` lines. A bad line costs itself and is counted by its reason."""
    reading = reading if reading is not None else Reading()
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError("there is no file of conversations", where=str(path)) from None
    with stream:
        for line in stream:
            if not line.strip():
                continue
            conversation = _parse(line)
            if isinstance(conversation, str):
                reading.refuse(conversation)
                continue
            reading.read += 1
            yield conversation


def _parse(line: str) -> Conversation | str:
    """A conversation, or the reason why the line is none."""
    try:
        raw = json.loads(line)
    except json.JSONDecodeError:
        return "not_json"
    if not isinstance(raw, dict) or not isinstance(raw.get("messages"), list) or "id" not in raw:
        return "not_a_conversation"
    messages = []
    for entry in raw["messages"]:
        if not isinstance(entry, dict) or entry.get("role") not in ROLES or not isinstance(entry.get("content"), str):
            return "bad_message"
        messages.append(Message(entry["role"], entry["content"]))
    if not any(message.role == "assistant" and message.content.strip() for message in messages):
        return "no_reply"
    return Conversation(str(raw["id"]), tuple(messages))


def is_held_out(conversation: Conversation, fraction: float) -> bool:
    return conversation.held_out_rank < fraction


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each whether the model is taught to produce it."""

    ids: list[int]
    taught: list[bool]


def check_special_tokens(tokenizer: ChatTokenizer) -> None:
    """Padding must not share an id with a token that ends a turn: it would be masked and the end never learnt."""
    if tokenizer.pad_id in (tokenizer.eos_id, tokenizer.token_id(END)):
        raise InputError(
            "the tokenizer pads with the token that ends a turn",
            where=f"id {tokenizer.pad_id}",
            remedy="Train the tokenizer with a padding token of its own.",
        )


def stop_ids(tokenizer: ChatTokenizer) -> list[int]:
    """The tokens that end a reply."""
    return [tokenizer.token_id(END), tokenizer.eos_id]


def render_messages(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> Iterator[Rendered]:
    """Turn by turn: the role, the words, the end. Only what an assistant says, and its end, is taught."""
    end = tokenizer.token_id(END)
    # One call for all: the tokenizer's cost a call exceeds that of a short message.
    encoded = tokenizer.encode_batch([message.content.strip() for message in messages])
    for message, words in zip(messages, encoded, strict=True):
        taught = message.role == "assistant"
        yield Rendered([tokenizer.token_id(f"<|{message.role}|>"), *words, end], [False] + [taught] * (len(words) + 1))


def render_prompt(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> list[int]:
    """What the model sees before it replies."""
    turns = [token for turn in render_messages(tokenizer, messages) for token in turn.ids]
    return [tokenizer.bos_id, *turns, tokenizer.token_id("<|assistant|>")]


def fitting(tokenizer: ChatTokenizer, messages: Sequence[Message], max_length: int) -> tuple[Message, ...] | None:
    """The messages whose prompt has at most ``max_length`` tokens: the oldest turns go first, a leading system turn
    stays, and a user opens. None if not even the last turn fits."""
    opening = messages[:1] if messages and messages[0].role == "system" else messages[:0]
    turns = messages[len(opening) :]
    length = len(render_prompt(tokenizer, opening))
    start = None
    # From the last turn backwards: of a long conversation only the part that fits is ever encoded.
    for index in range(len(turns) - 1, -1, -1):
        (turn,) = render_messages(tokenizer, turns[index : index + 1])
        length += len(turn.ids)
        if length > max_length:
            break
        if turns[index].role == "user":
            start = index
    return None if start is None else (*opening, *turns[start:])


def render_reply(tokenizer: ChatTokenizer, reply: str) -> list[int]:
    """An assistant's words and its end, as they follow a prompt."""
    return [*tokenizer.encode(reply.strip()), tokenizer.token_id(END)]


def render_pieces(tokenizer: ChatTokenizer, conversation: Conversation, max_length: int) -> Iterator[Rendered]:
    """A conversation as training pieces of at most ``max_length`` tokens.

    A long conversation becomes several pieces of whole turns; each ends with something to learn. A turn that does not
    fit even alone ends its piece and is left out.
    """
    ids, taught = [tokenizer.bos_id], [False]
    turns = render_messages(tokenizer, conversation.messages)
    for message, turn in zip(conversation.messages, turns, strict=True):
        if len(ids) + len(turn.ids) > max_length:
            yield from _finished(ids, taught)
            ids, taught = [tokenizer.bos_id], [False]
            # A piece never opens with a reply to something the model cannot see.
            if message.role == "assistant" or 1 + len(turn.ids) > max_length:
                continue
        if message.role == "assistant" and len(ids) == 1:
            continue
        ids += turn.ids
        taught += turn.taught
    yield from _finished(ids, taught)


def _finished(ids: list[int], taught: list[bool]) -> Iterator[Rendered]:
    """The piece up to its last taught token, if it has one."""
    last = max((index for index, learn in enumerate(taught) if learn), default=-1)
    if last > 0:
        yield Rendered(ids[: last + 1], taught[: last + 1])


@dataclass(frozen=True)
class PackedRows:
    """Rows of ``length`` tokens. ``segments`` is 0 on padding and 1, 2, … for the pieces of a row."""

    input_ids: np.ndarray
    taught: np.ndarray
    segments: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def filled(self) -> float:
        """The share of the rows that is not padding."""
        return float((self.segments > 0).mean()) if self.segments.size else 0.0

    def select(self, indices: np.ndarray) -> "PackedRows":
        return PackedRows(
            self.input_ids[indices], self.taught[indices], self.segments[indices], self.positions[indices]
        )


def pack(pieces: Sequence[Rendered], length: int, pad_id: int) -> PackedRows:
    """Best-fit decreasing: the longest piece first, each into the fullest row that still has room."""
    order = sorted(range(len(pieces)), key=lambda index: (-len(pieces[index].ids), index))
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(length + 1)]
    for index in order:
        need = len(pieces[index].ids)
        if need > length:
            raise ValueError(f"a piece of {need} tokens does not fit a row of {length}")
        room = next((room for room in range(need, length + 1) if rows_by_room[room]), None)
        if room is None:
            rows.append([index])
            row, room = len(rows) - 1, length
        else:
            row = rows_by_room[room].pop()
            rows[row].append(index)
        rows_by_room[room - need].append(row)
    return _lay_out(pieces, rows, length, pad_id)


def _lay_out(pieces: Sequence[Rendered], rows: list[list[int]], length: int, pad_id: int) -> PackedRows:
    shape = (len(rows), length)
    packed = PackedRows(
        np.full(shape, pad_id, np.int64), np.zeros(shape, bool), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    )
    for row, members in enumerate(rows):
        start = 0
        for number, index in enumerate(members, start=1):
            piece = pieces[index]
            span = slice(start, start + len(piece.ids))
            packed.input_ids[row, span] = piece.ids
            packed.taught[row, span] = piece.taught
            packed.segments[row, span] = number
            packed.positions[row, span] = np.arange(len(piece.ids))
            start = span.stop
    return packed


@dataclass(frozen=True)
class Exchange:
    """A prompt and the human reply to it."""

    conversation: Conversation
    turn: int

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.conversation.messages[: self.turn]

    @property
    def reply(self) -> str:
        return self.conversation.messages[self.turn].content.strip()


def exchanges(conversations: Iterable[Conversation]) -> Iterator[Exchange]:
    """Every assistant turn that answers something."""
    for conversation in conversations:
        for turn, message in enumerate(conversation.messages):
            if turn > 0 and message.role == "assistant" and message.content.strip():
                yield Exchange(conversation, turn)


def messages_from_json(raw: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(entry["role"], entry["content"]) for entry in raw)


def messages_to_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
