"""What fine-tuning learns from: conversations of any number of files, cut, weighted and packed; and what is in them.

Each file has a weight: how often its conversations are seen in an epoch. Of 1.5, each is there once and every second one,
chosen by its id, once more; of 0.25, every fourth. Held-out conversations are measured once, whatever the weight.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alignment.conversations import Exchange, cut, exchanges, is_held_out, read_conversations
from alignment.fates import FateLedger
from alignment.records import Reading, find
from alignment.template_chat import AnyTokenizer
from alignment.turns import Conversation, Rendered
from infra.config import Json
from infra.errors import ConfigError, InputError
from infra.store.dataset import Dataset

SHOWN = 5
"""Conversations of the sample."""
SHOWN_TOKENS = 600


class Files(Protocol):
    """The settings that say what is read."""

    @property
    def conversations(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> tuple[float, ...]: ...
    @property
    def held_out_fraction(self) -> float: ...
    @property
    def row_length(self) -> int: ...
    @property
    def generation_prompts(self) -> int: ...


@dataclass
class Chats:
    """The pieces to train on and to measure, and figures of the conversations they come from."""

    training: list[Rendered] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """The conversation of each piece to train on."""
    held_out: list[Rendered] = field(default_factory=list)
    answers: list[Exchange] = field(default_factory=list)
    """Of held-out conversations, for what the model says to their people."""
    turns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    taught: list[int] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)
    by_file: dict[str, dict[str, int]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    """The beginning of what is said in each, to tell its language."""
    sample: list[tuple[str, Rendered]] = field(default_factory=list)


def read_chats(
    files: Files, inputs: Mapping[str, Dataset], tokenizer: AnyTokenizer, reading: Reading, ledger: FateLedger
) -> Chats:
    """Read and cut the conversations; the ledger tells what became of each."""
    chats = Chats()
    for address, weight in _weighted(files):
        for path in find(address, inputs):
            before = len(chats.turns), sum(map(len, (chats.training, chats.held_out)))
            for conversation in read_conversations(path, reading):
                _take(chats, conversation, weight, files, tokenizer, ledger)
            after = len(chats.turns), sum(map(len, (chats.training, chats.held_out)))
            name = Path(str(path)).name
            chats.by_file[name] = {"conversations": after[0] - before[0], "pieces": after[1] - before[1]}
    return chats


def _weighted(files: Files) -> Iterator[tuple[str, float]]:
    if files.weights and len(files.weights) != len(files.conversations):
        raise ConfigError(
            f"there are {len(files.weights)} weights for {len(files.conversations)} files",
            where="weights",
            remedy="Give each of conversations a weight, or none.",
        )
    yield from zip(files.conversations, files.weights or [1.0] * len(files.conversations), strict=True)


def _take(
    chats: Chats, conversation: Conversation, weight: float, files: Files, tokenizer: AnyTokenizer, ledger: FateLedger
) -> None:
    held = is_held_out(conversation, files.held_out_fraction)
    times = 1 if held else times_of(conversation, weight)
    if times == 0:
        ledger.record("dropped", "left_out_by_weight", conversation.id, f"its file has the weight {weight:g}")
        return
    try:
        found = cut(tokenizer, conversation, files.row_length)
    except InputError as error:  # a template that takes no system turn, or wants speakers to alternate
        ledger.record("dropped", "template_refuses", conversation.id, error.error)
        return
    replies = sum(message.role == "assistant" for message in conversation.messages)
    ledger.conversation(conversation, replies, found.untaught, held)
    _note(chats, conversation, found.pieces)
    if held:
        chats.held_out += found.pieces
        if len(chats.answers) < files.generation_prompts:
            chats.answers.extend(exchanges([conversation]))
        return
    for _ in range(times):
        chats.training += found.pieces
        chats.sources += [conversation.id] * len(found.pieces)


def times_of(conversation: Conversation, weight: float) -> int:
    """How often an epoch sees the conversation: the whole part of the weight, and once more by its id for the rest."""
    whole = int(weight)
    # Another draw than that of the split, which takes the lowest ranks away.
    rank = replace(conversation, id=f"weight/{conversation.id}").held_out_rank
    return whole + (rank < weight - whole)


def _note(chats: Chats, conversation: Conversation, pieces: Sequence[Rendered]) -> None:
    chats.turns.append(len(conversation.messages))
    chats.tokens.append(sum(len(piece.ids) for piece in pieces))
    chats.taught.append(sum(sum(piece.loss_mask) for piece in pieces))
    chats.roles.update(message.role for message in conversation.messages)
    chats.texts.append(" ".join(message.content for message in conversation.messages if message.role != "system")[:600])
    if pieces and len(chats.sample) < SHOWN:
        chats.sample.append((conversation.id, pieces[0]))


def describe(chats: Chats, tokenizer: AnyTokenizer, languages: Mapping[str, int]) -> dict[str, Json]:
    """Lengths, turns, languages, and a few conversations in runs of text: what is learnt, and what is context."""
    return {
        "conversations": len(chats.turns),
        "turns": _spread(chats.turns),
        "tokens": _spread(chats.tokens),
        "taught_tokens": _spread(chats.taught),
        "taught_share": round(sum(chats.taught) / max(1, sum(chats.tokens)), 4),
        "roles": dict(sorted(chats.roles.items())),
        "languages": dict(languages),
        "files": {name: dict(figures) for name, figures in chats.by_file.items()},
        "sample": [{"id": name, "runs": runs_of(tokenizer, piece)} for name, piece in chats.sample],
    }


def _spread(values: Sequence[int]) -> dict[str, Json]:
    if not values:
        return {}
    low, median, high = np.percentile(values, [5, 50, 95]).tolist()
    return {"mean": round(float(np.mean(values)), 2), "p5": low, "median": median, "p95": high, "most": max(values)}


def runs_of(tokenizer: AnyTokenizer, piece: Rendered) -> list[Json]:
    """``[text, learnt]`` of the stretches of a piece; tokens that stand for no text are named."""
    runs: list[Any] = []
    for token, learnt in zip(piece.ids[:SHOWN_TOKENS], piece.loss_mask[:SHOWN_TOKENS], strict=True):
        if runs and runs[-1][1] == learnt:
            runs[-1][0].append(token)
        else:
            runs.append([[token], learnt])
    return [[_shown(tokenizer, ids), learnt] for ids, learnt in runs]


def _shown(tokenizer: AnyTokenizer, ids: Sequence[int]) -> str:
    """The text of some tokens with the names of control tokens, which decoding leaves out."""
    parts, plain = list[str](), list[int]()
    for token in ids:
        if name := tokenizer.control_name(token):
            parts += [tokenizer.decode(plain), name]
            plain = []
        else:
            plain.append(token)
    return "".join([*parts, tokenizer.decode(plain)])
