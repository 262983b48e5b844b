"""Conversations as training material: how files of them are read, and what of them the model must learn to say.

A conversation is rendered turn by turn, each turn closed by ``<|end|>``:

    <s> <|user|> hello <|end|> <|assistant|> hi there <|end|> <|user|> ...

The model is taught the assistant's words and the ``<|end|>`` after them: without that token in the loss it never
learns to stop, and the same happens when padding shares an id with it. Everything else is context.

A conversation longer than a row goes on in another piece. A reply is always taught behind its own question and, where
the conversation has one, its system turn; a reply that fits no row even so is not taught, and ``cut`` says so.

What a line of a file cannot be used for costs that line: ``Reading`` counts it and hands on where it is.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from alignment.data import RawLine, raw_lines
from alignment.turns import END, ROLES, AnyTokenizer, ChatTokenizer, Conversation, Message, Rendered, Templated
from infra.config import canonical_json
from infra.errors import InputError


@dataclass(frozen=True)
class Refusal:
    """A line that cannot be used, and why."""

    line: RawLine
    reason: str
    detail: str = ""


@dataclass
class Reading:
    """What became of the lines of a file. ``tell`` hears of each that was refused."""

    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    tell: Callable[[Refusal], None] | None = None
    first: Refusal | None = None
    """The first that was refused: an example."""

    def refuse(self, refusal: Refusal) -> None:
        self.first = self.first or refusal
        self.refused[refusal.reason] = self.refused.get(refusal.reason, 0) + 1
        if self.tell is not None:
            self.tell(refusal)

    @property
    def example(self) -> str:
        """What is wrong with the first line that was refused, for an error's sentence."""
        if self.first is None:
            return ""
        return f" (line {self.first.line.number}: {self.first.detail or self.first.reason})"


def read_conversations(path: Path, reading: Reading | None = None) -> Iterator[Conversation]:
    """Stream ``{id, messages: [{role, content}]}`` lines. A bad line costs itself and is counted by its reason.

    A conversation without an id is named by its content, so that it stays on its side of the split wherever it stands.
    """
    reading = reading if reading is not None else Reading()
    for line in raw_lines(path):
        conversation = _parse(line)
        if isinstance(conversation, Refusal):
            reading.refuse(conversation)
            continue
        reading.read += 1
        yield conversation


def _parse(line: RawLine) -> Conversation | Refusal:
    """A conversation, or the reason why the line is none."""
    raw = parse_object(line)
    if isinstance(raw, Refusal):
        return raw
    if not isinstance(raw.get("messages"), list):
        return Refusal(line, "not_a_conversation", f"it has no list of messages; its keys: {_keys(raw)}")
    messages = messages_of(raw["messages"])
    if isinstance(messages, str):
        return Refusal(line, "bad_message", messages)
    if not any(message.role == "assistant" and message.content.strip() for message in messages):
        return Refusal(line, "no_reply", "no assistant says anything in it")
    return Conversation(name_of(raw.get("id"), [messages_to_json(messages)]), messages)


def parse_object(line: RawLine) -> dict[str, Any] | Refusal:
    """The JSON object of a line. Half of a character pair, which no text can hold, becomes U+FFFD."""
    if line.problem is not None:
        return Refusal(line, *line.problem)
    try:
        text = line.data.decode()
    except UnicodeDecodeError as error:
        return Refusal(line, "not_utf8", f"byte {error.start} of the line")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Refusal(line, "not_json", str(error)[:200])
    return raw if isinstance(raw, dict) else Refusal(line, "not_an_object", f"it is a {type(raw).__name__}")


def name_of(given: Any, content: Any) -> str:
    """The id a record brings, or else one made of its content."""
    if isinstance(given, (str, int)) and not isinstance(given, bool) and str(given).strip():
        return whole_characters(str(given))
    return hashlib.blake2b(canonical_json(content).encode(), digest_size=16).hexdigest()


def messages_of(raw: Sequence[Any]) -> tuple[Message, ...] | str:
    """Messages from plain data, or a sentence about the first that is none."""
    messages = []
    for number, entry in enumerate(raw, start=1):
        if not isinstance(entry, dict):
            return f"message {number} is no object"
        role, content = entry.get("role"), _words(entry.get("content"))
        if role not in ROLES:
            return f"message {number} has the role {str(role)[:40]!r}; known are {', '.join(ROLES)}"
        if not isinstance(content, str):
            return f"the content of message {number} is no text"
        messages.append(Message(role, whole_characters(content)))
    return tuple(messages)


def _words(content: Any) -> Any:
    """Content given as parts is their text, if they are nothing but text."""
    if isinstance(content, list) and content and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        texts = [part.get("text") for part in content]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else None
    return content


def whole_characters(text: str) -> str:
    """Lone surrogates have no UTF-8 form and become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _keys(raw: Mapping[str, Any]) -> str:
    return ", ".join(list(raw)[:8]) or "none"


def is_held_out(conversation: Conversation, fraction: float) -> bool:
    return conversation.held_out_rank < fraction


def check_special_tokens(tokenizer: ChatTokenizer) -> None:
    """Padding must not share an id with a token that ends a turn: it would be masked and the end never learnt."""
    if tokenizer.pad_id in stop_ids(tokenizer):
        raise InputError(
            "the tokenizer pads with the token that ends a turn",
            where=f"id {tokenizer.pad_id}",
            remedy="Train the tokenizer with a padding token of its own.",
        )


def stop_ids(tokenizer: AnyTokenizer) -> list[int]:
    """The tokens that end a reply."""
    if isinstance(tokenizer, Templated):
        return tokenizer.stop_ids
    return [tokenizer.token_id(END), tokenizer.eos_id]


def render_messages(tokenizer: ChatTokenizer, messages: Sequence[Message]) -> Iterator[Rendered]:
    """Turn by turn: the role, the words, the end. Only what an assistant says, and its end, is taught."""
    end = tokenizer.token_id(END)
    # One call for all: the tokenizer's cost a call exceeds that of a short message.
    encoded = tokenizer.encode_batch([message.content.strip() for message in messages])
    for message, words in zip(messages, encoded, strict=True):
        counts = message.role == "assistant"
        yield Rendered([tokenizer.token_id(f"<|{message.role}|>"), *words, end], [False] + [counts] * (len(words) + 1))


def render_prompt(tokenizer: AnyTokenizer, messages: Sequence[Message]) -> list[int]:
    """What the model sees before it replies."""
    if isinstance(tokenizer, Templated):
        return tokenizer.prompt(messages)
    turns = [token for turn in render_messages(tokenizer, messages) for token in turn.ids]
    return [tokenizer.bos_id, *turns, tokenizer.token_id("<|assistant|>")]


def fitting(tokenizer: AnyTokenizer, messages: Sequence[Message], max_length: int) -> tuple[Message, ...] | None:
    """The messages whose prompt has at most ``max_length`` tokens: the oldest turns go first, a leading system turn
    stays, and a user opens. None if not even the last turn fits."""
    opening = tuple(messages[:1]) if messages and messages[0].role == "system" else ()
    turns = messages[len(opening) :]
    kept = None
    # From the last turn backwards: of a long conversation only the part that fits is ever encoded.
    for start in range(len(turns) - 1, -1, -1):
        if turns[start].role == "user":
            longer = (*opening, *turns[start:])
            if len(render_prompt(tokenizer, longer)) > max_length:
                break
            kept = longer
    return kept


def render_reply(tokenizer: AnyTokenizer, reply: str) -> list[int]:
    """An assistant's words and its end, as they follow a prompt."""
    if isinstance(tokenizer, Templated):
        return tokenizer.reply(reply)
    return [*tokenizer.encode(reply.strip()), tokenizer.token_id(END)]


@dataclass(frozen=True)
class Untaught:
    """Why a reply is not taught: ``answers_nothing``, ``empty_reply`` or ``too_long``, and then for what length."""

    rule: str
    tokens: int | None = None


@dataclass(frozen=True)
class Cut:
    """A conversation as training pieces, with the replies that are in none of them, by their place."""

    pieces: list[Rendered]
    untaught: dict[int, Untaught]


def render_pieces(tokenizer: AnyTokenizer, conversation: Conversation, max_length: int) -> Iterator[Rendered]:
    """The conversation's training pieces of at most ``max_length`` tokens."""
    yield from cut(tokenizer, conversation, max_length).pieces


def cut(tokenizer: AnyTokenizer, conversation: Conversation, max_length: int) -> Cut:
    """A conversation as pieces of whole turns, each ending with something to learn.

    A reply that does not fit behind what is there opens another piece, with the system turn and the turns since the
    reply before it; of several questions in a row the last is enough. It is lost only if it fits no row even so.
    """
    messages, found = conversation.messages, Cut([], {})
    turns = _turns_of(tokenizer, messages)
    piece: dict[int, bool] = {}
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        lead = _lead(messages, index)
        if lead is None:
            found.untaught[index] = Untaught("answers_nothing")
            continue
        teaches = bool(message.content.strip())
        if not teaches:
            found.untaught[index] = Untaught("empty_reply")
        new = [place for place in [*lead, index] if place not in piece]
        longer = piece | dict.fromkeys(new, False) | {index: teaches}
        if piece and new[0] == max(piece) + 1 and turns.size(longer) <= max_length:
            piece = longer
            continue
        found.pieces.extend(turns.finished(piece))
        piece = _fresh(turns, messages, lead, index, max_length) | {index: teaches}
        if turns.size(piece) > max_length:
            found.untaught.setdefault(index, Untaught("too_long", turns.size(piece)))
            piece = {}
    found.pieces.extend(turns.finished(piece))
    return found


def _lead(messages: Sequence[Message], index: int) -> list[int] | None:
    """The places of what a reply answers, a leading system turn left out; None where it answers nothing.

    These are the turns since the reply before it. Of two replies in a row the second also follows the first.
    """
    start = index
    while start > 0 and messages[start - 1].role == "assistant":
        start -= 1
    while start > 0 and messages[start - 1].role != "assistant":
        start -= 1
    if messages[start].role == "assistant":
        return None
    return list(range(start + (start == 0 and messages[0].role == "system"), index))


def _fresh(
    turns: "_Turns", messages: Sequence[Message], lead: list[int], index: int, max_length: int
) -> dict[int, bool]:
    """A piece that opens with what a reply answers. All of it is context: what was taught before is not taught twice."""
    system = [0] if messages[0].role == "system" else []
    questions = sum(messages[place].role != "assistant" for place in lead)
    for dropped in range(max(1, questions)):
        piece = dict.fromkeys([*system, *lead[dropped:], index], False)
        if turns.size(piece) <= max_length:
            break
    return piece


class _Turns(Protocol):
    """The turns of one conversation, any of which make a piece: {place: whether its words are taught}."""

    def size(self, piece: Mapping[int, bool]) -> int: ...

    def finished(self, piece: Mapping[int, bool]) -> list[Rendered]: ...


class _OwnTurns:
    """Turns in our own form: a piece is one after the other, each encoded once."""

    def __init__(self, tokenizer: ChatTokenizer, messages: Sequence[Message]) -> None:
        self._turns = list(render_messages(tokenizer, messages))
        self._opening = tokenizer.bos_id

    def size(self, piece: Mapping[int, bool]) -> int:
        return 1 + sum(len(self._turns[place].ids) for place in piece)

    def finished(self, piece: Mapping[int, bool]) -> list[Rendered]:
        ids, loss_mask = [self._opening], [False]
        for place, teaches in piece.items():
            ids += self._turns[place].ids
            loss_mask += [teaches and learn for learn in self._turns[place].loss_mask]
        return _up_to_the_last_counted(Rendered(ids, loss_mask))


class _TemplatedTurns:
    """Turns in the form of a model from elsewhere, whose template sees a piece as a chat of its own."""

    def __init__(self, tokenizer: Templated, messages: Sequence[Message]) -> None:
        self._tokenizer, self._messages = tokenizer, messages

    def size(self, piece: Mapping[int, bool]) -> int:
        return len(self._chat(piece).ids)

    def finished(self, piece: Mapping[int, bool]) -> list[Rendered]:
        return _up_to_the_last_counted(self._chat(piece)) if piece else []

    def _chat(self, piece: Mapping[int, bool]) -> Rendered:
        return self._tokenizer.chat([self._messages[place] for place in piece], list(piece.values()))


def _turns_of(tokenizer: AnyTokenizer, messages: Sequence[Message]) -> _Turns:
    if isinstance(tokenizer, Templated):
        return _TemplatedTurns(tokenizer, messages)
    return _OwnTurns(tokenizer, messages)


def _up_to_the_last_counted(piece: Rendered) -> list[Rendered]:
    """The piece up to the last token that the loss counts, if it has one."""
    last = max((index for index, learn in enumerate(piece.loss_mask) if learn), default=-1)
    return [Rendered(piece.ids[: last + 1], piece.loss_mask[: last + 1])] if last > 0 else []


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
