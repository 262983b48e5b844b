"""People's judgements of replies, in the forms in which such data is published.

    {"prompt": "…", "chosen": "…", "rejected": "…"}              texts; the prompt is a user's turn, or a transcript
    {"prompt": […], "chosen": […], "rejected": […]}              messages ({role, content}); replies alone …
    {"chosen": […], "rejected": […]}                             … or whole chats that differ in their last turn
    {"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": …}    whole chats as transcripts (HH-RLHF)
    {"prompt": …, "a": …, "b": …, "winner": "a"|"b"|"tie"|"both_bad"}    one person's vote; an arena's, too
    {"prompt": …, "completion": …, "label": true|false}          one reply, good or bad (KTO; ``read_rated``); also a
                                                                 whole chat as ``messages`` or ``conversations``

What is asked is also read from the fields in which conversations ask (``question``, ``instruction`` with ``input``, …), or
from ``messages`` or ``conversations`` before the replies. A comparison may have a ``weight`` (1), an ``annotator``, and a
``margin``: how much better the better reply is, given or as ``score_chosen`` less ``score_rejected``. A tie is a comparison
too: of two replies nobody could choose between. A ``system`` text beside them opens the chat. A record that is none of these
costs itself, and is told with its reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignment.data import RatedReply
from alignment.forms import asked_of, label_of, messages_to_json, tools_of, turns_from
from alignment.records import Reading, Record, Unusable, keys_of, name_of, parsed
from alignment.turns import Message

WINNERS = {
    "a": "a", "model_a": "a", "b": "b", "model_b": "b", "tie": "tie",
    "both_bad": "both_bad", "bothbad": "both_bad", "tie (bothbad)": "both_bad", "tie (both bad)": "both_bad",
}  # fmt: skip
SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred_output", "non_preferred_output"))
LARGEST = 3.4e38
"""Of a number in the precision in which it is stored."""
VOTED = (("a", "b"), ("conversation_a", "conversation_b"), ("response_a", "response_b"))


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
    weight: float = 1.0
    """How much this judgement counts beside others."""
    tie: bool = False
    """Neither is better: which one stands first means nothing."""
    margin: float = 0.0
    """How much better the better one is, on the scale of who judged."""
    annotator: str = ""


def read_comparisons(address: Path | str, reading: Reading) -> Iterator[tuple[Record, Pair]]:
    """The comparisons of a file, each with its place; the others are refused."""
    return parsed(address, reading, comparison_of)


def read_rated(address: Path | str, reading: Reading) -> Iterator[tuple[Record, RatedReply]]:
    """The rated replies of a file, each with its place; the others are refused."""
    return parsed(address, reading, rated_of)


def comparison_of(raw: Mapping[str, Any]) -> Pair:
    """The comparison a record holds. Raises ``Unusable``."""
    winner = _winner(raw)
    better, worse = next(
        (names for names in (VOTED if winner else SIDES) if all(raw.get(name) is not None for name in names)), ("", "")
    )
    if not better:
        wanted = "a and b" if winner else "chosen and rejected"
        raise Unusable("not_a_pair", f"it has no {wanted}; its keys: {keys_of(raw)}")
    if winner == "b":
        better, worse = worse, better
    # Whole chats bring their prompt; of replies alone it stands beside them.
    (before, chosen), (other, rejected) = (
        _last_reply(_turns(raw, name, "assistant"), name) for name in (better, worse)
    )
    if before != other:
        raise Unusable("different_prompts", "the two chats differ before their last reply")
    prompt = _asked(before or _prompt(raw), raw)
    if not chosen or not rejected:
        raise Unusable("empty_reply", "one of the replies is empty")
    if chosen == rejected:
        raise Unusable("same_replies", "")
    tie = winner in ("tie", "both_bad")
    content = [messages_to_json(prompt), chosen, rejected]
    return Pair(
        name_of(raw.get("id") or raw.get("prompt_id"), content),
        prompt,
        chosen,
        rejected,
        weight=_number(raw, "weight", 1.0, least=0.0),
        tie=tie,
        margin=0.0 if tie else _margin(raw),
        annotator=str(raw["annotator"]) if raw.get("annotator") is not None else "",
    )


def prompt_of(raw: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a record's prompt asks, whatever else it holds. Raises ``Unusable``."""
    return _asked(_prompt(raw), raw)


def _prompt(raw: Mapping[str, Any]) -> tuple[Message, ...]:
    """What is asked beside the replies."""
    if asked := asked_of({name: value for name, value in raw.items() if value is not None}):
        return tuple(map(_stripped, asked))
    chat = next((name for name in ("messages", "conversations") if isinstance(raw.get(name), list)), "")
    turns = _turns(raw, chat, "user")
    while turns and turns[-1].role == "assistant":  # a chat with one of the replies already in it
        turns = turns[:-1]
    return turns


def _winner(raw: Mapping[str, Any]) -> str:
    """What a vote says; empty where the record is none."""
    said = raw.get("winner")
    if said is None:
        return ""
    if not isinstance(said, str) or said.lower() not in WINNERS:
        raise Unusable("bad_vote", f"winner is {str(said)[:40]!r}; known are a, b, tie, both_bad")
    return WINNERS[said.lower()]


def _margin(raw: Mapping[str, Any]) -> float:
    """How much better the better reply is; 0 where nobody says. Scores that say the opposite are not believed."""
    if raw.get("margin") is not None:
        return _number(raw, "margin", 0.0, least=0.0)
    if raw.get("score_chosen") is None or raw.get("score_rejected") is None:
        return 0.0
    return max(0.0, _number(raw, "score_chosen", 0.0) - _number(raw, "score_rejected", 0.0))


def _number(raw: Mapping[str, Any], name: str, default: float, least: float = -LARGEST) -> float:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= LARGEST:
        raise Unusable("bad_number", f"{name} is {str(value)[:40]!r}")
    return float(value)


def rated_of(raw: Mapping[str, Any]) -> RatedReply:
    """The rated reply a record holds. Raises ``Unusable``."""
    label = label_of(raw)
    field = next((name for name in ("completion", "messages", "conversations") if raw.get(name) is not None), "")
    if not field or not (isinstance(label, bool) or label in (0, 1)):
        raise Unusable("not_rated", f"it has no completion with a label true or false; its keys: {keys_of(raw)}")
    before, completion = _last_reply(_turns(raw, field, "assistant"), field)
    prompt = _asked(before or _prompt(raw), raw)
    if not completion:
        raise Unusable("empty_reply", f"{field} is empty, or ends with an empty reply")
    name, weight = (
        name_of(raw.get("id"), [messages_to_json(prompt), completion]),
        _number(raw, "weight", 1.0, least=0.0),
    )
    return RatedReply(name, prompt, completion, bool(label), weight)


def _asked(prompt: tuple[Message, ...], raw: Mapping[str, Any]) -> tuple[Message, ...]:
    """What is replied to, with what opens the chat. Raises ``Unusable`` where nobody asks."""
    while prompt and prompt[-1].role == "assistant" and not prompt[-1].says:
        prompt = prompt[:-1]  # "Assistant:" at the end of a transcript asks for the reply
    system, tools = raw.get("system"), tools_of(raw.get("tools"))
    words = system.strip() if isinstance(system, str) else ""
    if prompt and prompt[0].role != "system" and (words or tools):
        prompt = (Message("system", words), *prompt)
    if not any(message.role == "user" and message.content for message in prompt):
        raise Unusable("no_prompt", "no user says anything before the replies")
    return (replace(prompt[0], tools=tools), *prompt[1:]) if tools else prompt


def _last_reply(turns: tuple[Message, ...], name: str) -> tuple[tuple[Message, ...], str]:
    if not turns:
        raise Unusable("empty_reply", f"{name} is empty")
    if turns[-1].role != "assistant":
        raise Unusable("no_reply", f"{name} does not end with the assistant's words")
    if turns[-1].tool_calls:
        raise Unusable("calls_tool", f"{name} ends with a call of a tool, which is no reply to be compared")
    return turns[:-1], turns[-1].content


def _turns(raw: Mapping[str, Any], name: str, role: str) -> tuple[Message, ...]:
    """The turns of a field, words without white space around them."""
    return tuple(map(_stripped, turns_from(raw.get(name), role, name)))


def _stripped(turn: Message) -> Message:
    return replace(turn, content=turn.content.strip())
