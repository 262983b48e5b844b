"""Comparisons of one's own: which of two replies to a prompt was preferred, in the forms in which such data is published.

    {"prompt": "…", "chosen": "…", "rejected": "…"}              texts; the prompt is a user's turn, or a transcript
    {"prompt": […], "chosen": […], "rejected": […]}              messages ({role, content}); replies alone …
    {"chosen": […], "rejected": […]}                             … or whole chats that differ in their last turn
    {"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": …}    whole chats as transcripts (HH-RLHF)

JSON lines or Parquet, compressed or not; a ``system`` text beside them opens the chat. A record that is none of these
costs itself, and is told with its reason.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.conversations import Reading, Refusal, messages_of, messages_to_json, name_of, parse_object
from alignment.data import RawLine, raw_lines
from alignment.turns import Message
from infra.errors import InputError

PARQUET_MAGIC = b"PAR1"
_SPEAKER = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Pair:
    """A prompt with two replies, the better one first."""

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    split: str = ""
    """``train`` or ``held_out``; empty as it comes from a file of one's own."""
    chosen_ids: tuple[int, ...] | None = None
    """The reply's tokens with their end, where they are known."""
    rejected_ids: tuple[int, ...] | None = None


class _Unusable(Exception):
    """(reason, detail) for the ledger."""


def read_comparisons(path: Path, reading: Reading) -> Iterator[tuple[RawLine, Pair]]:
    """The comparisons of a file, each with its place; the others are refused."""
    for line, raw in _records(path):
        if isinstance(raw, Refusal):
            reading.refuse(raw)
            continue
        try:
            found = comparison_of(raw)
        except _Unusable as error:
            reading.refuse(Refusal(line, *error.args))
            continue
        reading.read += 1
        yield line, found


def comparison_of(raw: dict[str, Any]) -> Pair:
    """The comparison a record holds. Raises ``_Unusable``."""
    if raw.get("chosen") is None or raw.get("rejected") is None:
        raise _Unusable("not_a_pair", f"it has no chosen and rejected; its keys: {', '.join(list(raw)[:8]) or 'none'}")
    given = _turns(raw.get("prompt"), "user")
    chosen, rejected = (_turns(raw[name], "assistant") for name in ("chosen", "rejected"))
    # Whole chats bring their prompt; of replies alone it stands beside them.
    (before, better), (other, worse) = _last_reply(chosen), _last_reply(rejected)
    if before != other:
        raise _Unusable("different_prompts", "the two chats differ before their last reply")
    prompt = before or given
    while prompt and prompt[-1].role == "assistant" and not prompt[-1].content:
        prompt = prompt[:-1]  # "Assistant:" at the end of a transcript asks for the reply
    system = raw.get("system")
    if isinstance(system, str) and system.strip() and prompt and prompt[0].role != "system":
        prompt = (Message("system", system.strip()), *prompt)
    if not any(message.role == "user" and message.content for message in prompt):
        raise _Unusable("no_prompt", "no user says anything before the replies")
    if not better or not worse:
        raise _Unusable("empty_reply", "one of the replies is empty")
    if better == worse:
        raise _Unusable("same_replies", "")
    content = [messages_to_json(prompt), better, worse]
    return Pair(name_of(raw.get("id") or raw.get("prompt_id"), content), prompt, better, worse)


def _last_reply(turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    if not turns:
        raise _Unusable("empty_reply", "one of the replies is empty")
    if turns[-1].role != "assistant":
        raise _Unusable("no_reply", "a chat does not end with the assistant's words")
    return turns[:-1], turns[-1].content


def _turns(value: Any, role: str) -> tuple[Message, ...]:
    """Turns from a text, a transcript, a message or a list of messages; words without white space around them."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = transcript(value) if value.lstrip().startswith(("Human:", "Assistant:")) else [_said(role, value)]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise _Unusable("bad_message", f"a {type(value).__name__} is neither text nor messages")
    turns = messages_of(value)
    if isinstance(turns, str):
        raise _Unusable("bad_message", turns)
    return tuple(Message(turn.role, turn.content.strip()) for turn in turns)


def transcript(text: str) -> list[dict[str, str]]:
    """``\\n\\nHuman: …\\n\\nAssistant: …`` as messages."""
    parts = _SPEAKER.split(text)
    return [_said(_ROLES[name], words) for name, words in zip(parts[1::2], parts[2::2], strict=True)]


def _said(role: str, words: str) -> dict[str, str]:
    return {"role": role, "content": words.strip()}


def _records(path: Path) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), remedy="Check preferences.pairs.")
    with path.open("rb") as stream:
        magic = stream.read(len(PARQUET_MAGIC))
    if magic == PARQUET_MAGIC:
        yield from _rows(path)
        return
    for line in raw_lines(path):
        yield line, parse_object(line)


def _rows(path: Path) -> Iterator[tuple[RawLine, dict[str, Any] | Refusal]]:
    """Rows of a Parquet file. Text that is not UTF-8 costs its row."""
    try:
        batches = pq.ParquetFile(path).iter_batches(256)
        for first, batch in _numbered(batches):
            for index in range(batch.num_rows):
                line = RawLine(first + index, 0, b"")
                try:
                    (row,) = batch.slice(index, 1).to_pylist()
                    yield line, row
                except UnicodeDecodeError as error:
                    yield line, Refusal(line, "not_utf8", str(error))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"the Parquet file cannot be read: {str(error).splitlines()[0]}", where=str(path), remedy="Fetch it again."
        ) from error


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 1
    for batch in batches:
        yield first, batch
        first += batch.num_rows
