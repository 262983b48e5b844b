"""Conversations as training material: how files of them are read, and what of them the model must learn to say.

A conversation is rendered turn by turn, each turn closed by ``<|end|>``:

    <s> <|user|> hello <|end|> <|assistant|> hi there <|end|> <|user|> ...

The model is taught the assistant's words and the ``<|end|>`` after them: without that token in the loss it never
learns to stop, and the same happens when padding shares an id with it. Everything else is context.

A conversation longer than a row goes on in another piece. A reply is always taught behind its own question and, where
the conversation has one, its system turn; a reply that fits no row even so is not taught, and ``cut`` says so.

Calls of tools are an assistant's words; their results come in turns that no person can write (``written_turn``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from alignment.forms import conversation_of
from alignment.records import Reading, parsed
from alignment.template_chat import AnyTokenizer, FolderTokenizer
from alignment.turns import END, Conversation, Message, Rendered
from infra.errors import InputError
from pipeline.tokenizer import Tokenizer
from pipeline.tokenizer.chat_template import written_turn


def read_conversations(address: Path | str, reading: Reading | None = None) -> Iterator[Conversation]:
    """Stream the conversations of a file in any form (``alignment.forms``). A bad record costs itself and is counted.

    A conversation without an id is named by its content, so that it stays on its side of the split wherever it stands.
    """
    for _, conversation in parsed(address, reading or Reading(), conversation_of):
        yield conversation


def is_held_out(conversation: Conversation, fraction: float) -> bool:
    return conversation.held_out_rank < fraction


def check_special_tokens(tokenizer: Tokenizer) -> None:
    """Padding must not share an id with a token that ends a turn: it would be masked and the end never learnt."""
    if tokenizer.pad_id in stop_ids(tokenizer):
        raise InputError(
            "the tokenizer pads with the token that ends a turn",
            where=f"id {tokenizer.pad_id}",
            remedy="Train the tokenizer with a padding token of its own.",
        )


def stop_ids(tokenizer: AnyTokenizer) -> list[int]:
    """The tokens that end a reply."""
    if isinstance(tokenizer, FolderTokenizer):
        return tokenizer.stop_ids
    return [tokenizer.token_id(END), tokenizer.eos_id]


def render_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[Rendered]:
    """Turn by turn: the role, the words, the end. Only what an assistant says, and its end, is taught."""
    end = tokenizer.token_id(END)
    # One call for all: the tokenizer's cost a call exceeds that of a short message.
    written = [written_turn(message.role, message.content, message.tools, message.tool_calls) for message in messages]
    encoded = tokenizer.encode_batch([words for _, words in written])
    for (role, _), words in zip(written, encoded, strict=True):
        counts = role == "assistant"
        yield Rendered([tokenizer.token_id(f"<|{role}|>"), *words, end], [False] + [counts] * (len(words) + 1))


def render_prompt(tokenizer: AnyTokenizer, messages: Sequence[Message]) -> list[int]:
    """What the model sees before it replies."""
    if isinstance(tokenizer, FolderTokenizer):
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
    if isinstance(tokenizer, FolderTokenizer):
        return tokenizer.reply(reply)
    return [*tokenizer.encode(reply.strip()), tokenizer.token_id(END)]


@dataclass(frozen=True)
class Untaught:
    """Why a reply is not taught: ``answers_nothing``, ``empty_reply``, ``weight_zero``, or ``too_long`` and for what length."""

    rule: str
    tokens: int | None = None


@dataclass(frozen=True)
class Cut:
    """A conversation as training pieces, with the replies that are in none of them, by their place."""

    pieces: list[Rendered]
    untaught: dict[int, Untaught]


def render_pieces(tokenizer: AnyTokenizer, conversation: Conversation, max_length: int) -> Iterator[Rendered]:
    """The conversation's training pieces of at most ``max_length`` tokens, for programs outside this repository."""
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
        teaches = message.says and message.learn
        if not teaches:
            found.untaught[index] = Untaught("weight_zero" if message.says else "empty_reply")
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
    if messages[start].role == "tool" and start > 0 and (asked := _lead(messages, start - 1)) is not None:
        # Results answer nobody: what was asked, and the call, belong to them.
        return [*asked, *range(start - 1, index)]
    return list(range(start + (start == 0 and messages[0].role == "system"), index))


def _fresh(
    turns: "_Turns", messages: Sequence[Message], lead: list[int], index: int, max_length: int
) -> dict[int, bool]:
    """A piece that opens with what a reply answers. All of it is context: what was taught before is not taught twice."""
    system = [0] if messages[0].role == "system" else []
    asking = [number for number, place in enumerate(lead) if messages[place].role in ("user", "system")]
    for dropped in asking or [0]:
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

    def __init__(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
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

    def __init__(self, tokenizer: FolderTokenizer, messages: Sequence[Message]) -> None:
        self._tokenizer, self._messages = tokenizer, messages

    def size(self, piece: Mapping[int, bool]) -> int:
        return len(self._chat(piece).ids)

    def finished(self, piece: Mapping[int, bool]) -> list[Rendered]:
        return _up_to_the_last_counted(self._chat(piece)) if piece else []

    def _chat(self, piece: Mapping[int, bool]) -> Rendered:
        return self._tokenizer.chat([self._messages[place] for place in piece], list(piece.values()))


def _turns_of(tokenizer: AnyTokenizer, messages: Sequence[Message]) -> _Turns:
    if isinstance(tokenizer, FolderTokenizer):
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
    """Every assistant turn that answers something, and is an example of how."""
    for conversation in conversations:
        for turn, message in enumerate(conversation.messages):
            example = message.role == "assistant" and message.learn and message.content.strip()
            if turn > 0 and example and not message.tool_calls:
                yield Exchange(conversation, turn)
