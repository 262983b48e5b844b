"""The forms in which conversations are published, read as one.

    {"messages": [{role, content, …}], "tools": […]}       OpenAI's; tool_calls, tool and function turns included, and
                                                           ``weight: 0`` at a reply that is no example
                                                           (``train``, ``loss``: false);
                                                           reasoning_content goes before the reply, in <think> tags
    {"conversations": [{"from": …, "value": …}]}           ShareGPT; system, function_call, observation included;
                                                           either also as {"role": […], "content": […]}, or its JSON
    {"instruction": …, "input": …, "output"|"response": …} Alpaca; history: [[question, answer], …]
    {"prompt": …, "completion"|"response": …}              texts, messages, their JSON, or HH-RLHF transcripts; question
                                                           and answer
    {"chosen": …, "rejected": …}                           the chosen chat, to learn from alone
    {"text": "\\n\\nHuman: …\\n\\nAssistant: …"}               a transcript (HH-RLHF)
    documents of ``alignment.chat_source``                 conversations that went through the corpus stages

A ``system`` text beside any of them opens the chat, and ``tools`` (a list, or its JSON) are what the assistant may call.
What is no conversation is told with the field that is wrong.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from alignment.records import Unusable, from_json, keys_of, name_of, whole_characters
from alignment.turns import ROLES, Call, Conversation, Message
from infra.config import canonical_json

SPEAKER = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")
ALIASES = {
    "human": "user", "prompter": "user", "customer": "user",
    "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant", "model": "assistant",
    "bot": "assistant", "ai": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "function": "tool", "function_response": "tool", "tool_response": "tool", "observation": "tool", "ipython": "tool",
    "developer": "system",
}  # fmt: skip
TURN, ESCAPED = "\x1e", "\ufffd"
"""The record separator, and what stands for one that somebody wrote."""
EXAMPLE = ("weight", "train", "training", "loss")
"""0 or false: a reply that is not to be learnt (OpenAI's; axolotl's; ms-swift's)."""
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
MESSAGES = re.compile(r"\s*\[\s*\{")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""What an assistant thought before its reply: as vLLM and DeepSeek, OpenRouter, and gpt-oss name it."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Parts that are words: OpenAI's chat completions and its responses name them otherwise."""
CALLING = ("function_call", "tool_call")
QUESTIONS = ("prompt", "instruction", "question", "query", "input")
ANSWERS = ("completion", "response", "output", "answer", "chosen")


def conversation_of(raw: Mapping[str, Any]) -> Conversation:
    """The conversation that a record holds. Raises ``Unusable``."""
    given = {name: value for name, value in raw.items() if value is not None}
    if isinstance(text := given.get("text"), str) and text.startswith(TURN):
        # Of a document the url is the conversation's name; its own id also tells where it came from.
        given = {
            "id": given.get("url"),
            "messages": [_read_turn(part, n) for n, part in enumerate(text.split(TURN)[1:])],
        }
    # A number beside a chat may be the class of anything.
    if (label := label_of(given)) is False or (label == 0 and "completion" in given):
        raise Unusable("labelled_bad", "its label says that the reply is not to be learnt")
    messages = _with_opening(_turns_of(given), given)
    replies = [message for message in messages if message.role == "assistant" and message.says]
    if not replies:
        raise Unusable("no_reply", "no assistant says anything in it")
    if not any(message.learn for message in replies):
        raise Unusable("labelled_bad", "each of its replies is marked as not to be learnt")
    return Conversation(name_of(given.get("id"), [messages_to_json(messages)]), messages)


def label_of(given: Mapping[str, Any]) -> Any:
    """The label of a rated reply."""
    return _truth(given.get("label"))


def _truth(value: Any) -> Any:
    """Tables of text hold it as words."""
    return LABELS.get(value.strip().lower(), value) if isinstance(value, str) else value


def _turns_of(given: Mapping[str, Any]) -> tuple[Message, ...]:
    for name in ("messages", "conversations", "conversation"):
        value = given.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):  # as tables hold it
            value = _from_json(value, name)
        if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
            # As the Hugging Face library holds a sequence of objects: a list for each of their keys.
            value = [dict(zip(value, turn, strict=False)) for turn in zip_longest(*value.values())]
        if isinstance(value, list):
            return messages_of(value, name)
    answer = next((name for name in ANSWERS if name in given), "")
    if answer and (asked := asked_of(given)):
        replied = turns_from(given[answer], "assistant", answer)
        # Of a whole chat the prompt is already a part.
        return replied if replied and replied[0].role != "assistant" else (*asked, *replied)
    for name in ("chosen", "text", "messages", "conversations"):
        if isinstance(given.get(name), str) and is_transcript(given[name]):
            return transcript(given[name])
    if isinstance(given.get("chosen"), list):
        return messages_of(given["chosen"], "chosen")
    raise Unusable("not_a_conversation", f"it is in no known form; its keys: {keys_of(given)}")


def asked_of(given: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a record asks beside its replies, and what was said before; empty where it asks nothing. Raises ``Unusable``."""
    # Words that nothing is asked by: an empty instruction with an input, or a transcript that holds both.
    question = next((name for name in QUESTIONS if given.get(name)), "")
    if not question:
        return ()
    asked = turns_from(given[question], "user", question)
    extra = given.get("input") or given.get("context") if question == "instruction" else None
    if extra and not isinstance(extra, str):
        raise Unusable("bad_message", f"what stands beside the instruction is a {type(extra).__name__}, and no text")
    if extra and extra.strip() and asked:
        last = asked[-1]
        asked = (*asked[:-1], Message(last.role, f"{last.content.strip()}\n\n{extra.strip()}"))
    return (*_history(given), *asked)


def _history(given: Mapping[str, Any]) -> tuple[Message, ...]:
    """Alpaca's earlier rounds: ``[[question, answer], …]``."""
    turns: list[Message] = []
    rounds = given.get("history")
    rounds = _from_json(rounds, "history") if isinstance(rounds, str) else rounds
    if rounds and not isinstance(rounds, list):
        raise Unusable("bad_message", f"history is a {type(rounds).__name__}, and no list of rounds")
    for number, pair in enumerate(rounds or []):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise Unusable("bad_message", f"history[{number}] is no question with its answer")
        turns += [Message("user", whole_characters(pair[0])), Message("assistant", whole_characters(pair[1]))]
    return tuple(turns)


def _with_opening(messages: tuple[Message, ...], given: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages behind their system turn, which holds the tools."""
    system = given.get("system", given.get("system_prompt"))
    tools = tools_of(given.get("tools") or given.get("functions"))
    if messages and messages[0].role == "system":
        opening, rest, tools = messages[0], messages[1:], tools or messages[0].tools
    elif tools or (isinstance(system, str) and system.strip()):
        words = whole_characters(system).strip() if isinstance(system, str) else ""
        opening, rest = Message("system", words), messages
    else:
        return messages
    return (Message("system", opening.content, tools) if tools else opening, *rest)


def tools_of(raw: Any) -> tuple[Call, ...]:
    """Functions that may be called: a list of JSON schemas, or its JSON. Raises ``Unusable``."""
    value = _from_json(raw, "tools") if isinstance(raw, str) else raw
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise Unusable("bad_tools", "tools is no list of objects")
    return _plain(value, "bad_tools", "tools")


def messages_of(raw: Sequence[Any], field: str) -> tuple[Message, ...]:
    """Messages from plain data. Raises ``Unusable`` for the first that is none."""
    return tuple(_message(entry, f"{field}[{number}]") for number, entry in enumerate(raw))


def _message(entry: Any, place: str) -> Message:
    if not isinstance(entry, dict):
        raise Unusable("bad_message", f"{place} is no object")
    said = next((entry[name] for name in ("role", "from") if entry.get(name) is not None), None)
    role = ALIASES.get(said.lower(), said.lower()) if isinstance(said, str) else None
    if role not in ROLES:
        raise Unusable("bad_message", f"{place} has the role {str(said)[:40]!r}; known are {', '.join(ROLES)}")
    raw = next((entry[name] for name in ("content", "value", "text") if entry.get(name) is not None), None)
    calls = _calls(entry, place)
    if isinstance(said, str) and said.lower() in CALLING and isinstance(raw, str):
        called = _from_json(raw, f"{place}.value")
        calls, raw = _calls({"tool_calls": called if isinstance(called, list) else [called]}, place), ""
    content = _words(raw)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise Unusable("bad_message", f"{place} has no text as its content: it is {type(content).__name__}")
    thought = _reasoning(entry, raw) if role == "assistant" else ""
    # A reply that has it in its text already is as it was said; one that was cut off while it thought is none.
    if thought and "<think>" not in content and (content.strip() or calls):
        content = f"<think>\n{thought}\n</think>\n\n{content}"
    tool = {
        name: entry[name] for name in ("name", "tool_call_id") if role == "tool" and isinstance(entry.get(name), str)
    }
    tools = tools_of(entry.get("tools")) if role == "system" else ()
    learn = role != "assistant" or not any(_truth(entry.get(name)) in (0, False) for name in EXAMPLE)
    return Message(role, whole_characters(content), tools, calls, **tool, learn=learn)


def _reasoning(entry: Mapping[str, Any], content: Any) -> str:
    parts = [part.get("thinking") for part in content if _is_thought(part)] if isinstance(content, list) else []
    told = next((_words(entry[name]) for name in REASONING if entry.get(name)), "")
    words = "\n".join(part for part in parts if isinstance(part, str)) or told
    return words.strip() if isinstance(words, str) else ""


def _is_thought(part: Any) -> bool:
    """A part of a reply that is not said (Anthropic's); ``redacted_thinking`` cannot be read by anybody."""
    return isinstance(part, dict) and part.get("type") in ("thinking", "redacted_thinking")


def _calls(entry: Mapping[str, Any], place: str) -> tuple[Call, ...]:
    """Calls as OpenAI writes them, with arguments as an object."""
    raw = entry.get("tool_calls") or ([entry["function_call"]] if entry.get("function_call") else [])
    raw = _from_json(raw, f"{place}.tool_calls") if isinstance(raw, str) else raw
    calls = []
    for number, call in enumerate(raw if isinstance(raw, list) else [raw]):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Unusable("bad_message", f"{place}.tool_calls[{number}] names no function")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str) and arguments.strip():
            arguments = _from_json(arguments, f"{place}.tool_calls[{number}].arguments")
        calls.append({"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}})
    return _plain(calls, "bad_message", f"{place}.tool_calls")


def _plain(calls: Sequence[Call], reason: str, place: str) -> tuple[Call, ...]:
    """They are written out as JSON wherever they go; columns of a table may hold bytes, dates, and numbers that are none."""
    try:
        canonical_json(calls)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(reason, f"{place} is nothing that JSON can hold: {str(error)[:100]}") from None
    return tuple(calls)


def _from_json(text: str, place: str) -> Any:
    try:
        return from_json(text) if text.strip() else None
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_message", f"{place} is no JSON: {str(error)[:100]}") from None


def _words(content: Any) -> Any:
    """Content given as parts is their text, if they are nothing but text, and thoughts beside it."""
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        content = [content]
    if isinstance(content, list) and content:
        said = [part for part in content if not _is_thought(part)]
        if all(_is_text(part) for part in said):
            return "".join(part if isinstance(part, str) else part["text"] for part in said)
    return content


def _is_text(part: Any) -> bool:
    """Not a picture, and not a sound."""
    if isinstance(part, dict):
        return part.get("type", "text") in TEXT_PARTS and isinstance(part.get("text"), str)
    return isinstance(part, str)


def turns_from(value: Any, role: str, field: str) -> tuple[Message, ...]:
    """Turns from a text of that role, a transcript, a message or a list of messages. Raises ``Unusable``."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = _written_messages(value)
    if isinstance(value, str):
        return transcript(value) if is_transcript(value) else (Message(role, whole_characters(value)),)
    if isinstance(value, dict):
        value = value["messages"] if isinstance(value.get("messages"), list) else [value]
    if not isinstance(value, list):
        raise Unusable("bad_message", f"{field} is a {type(value).__name__}: neither text nor messages")
    return messages_of(value, field)


def _written_messages(text: str) -> Any:
    """The messages that a table holds as their JSON; any other text as it is, also other JSON."""
    if not MESSAGES.match(text):
        return text
    try:
        found = from_json(text)
    except (ValueError, RecursionError):
        return text
    said = all(isinstance(entry, dict) and entry.keys() & {"role", "from"} for entry in found)
    return found if said else text


def is_transcript(text: str) -> bool:
    return text.lstrip().startswith(("Human:", "Assistant:"))


def transcript(text: str) -> tuple[Message, ...]:
    """``\\n\\nHuman: …\\n\\nAssistant: …`` as messages."""
    parts = SPEAKER.split(text)
    said = zip(parts[1::2], parts[2::2], strict=True)
    return tuple(
        Message("user" if name == "Human" else "assistant", whole_characters(words.strip())) for name, words in said
    )


def written(messages: Sequence[Message]) -> str:
    """A conversation as one text: before each turn a control character, its role, and as JSON what is not words."""
    turns = []
    for message, plain in zip(messages, messages_to_json(messages), strict=True):
        more = {name: value for name, value in plain.items() if name not in ("role", "content")}
        head = f"{message.role} {json.dumps(more, ensure_ascii=False)}" if more else message.role
        turns.append(f"{TURN}{head.replace(TURN, ESCAPED)}\n{message.content.replace(TURN, ESCAPED)}")
    return "\n".join(turns)


def _read_turn(text: str, number: int) -> dict[str, Any]:
    """A turn as ``written`` wrote it, whatever a stage masked or cut in its words."""
    head, _, content = text.partition("\n")
    role, _, more = head.partition(" ")
    extra = _from_json(more, f"messages[{number}]") if more else None
    return {"role": role, "content": content.removesuffix("\n"), **(extra if isinstance(extra, dict) else {})}


def messages_from_json(raw: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """What ``messages_to_json`` made."""
    return tuple(
        Message(
            entry["role"],
            entry["content"],
            tuple(entry.get("tools", ())),
            tuple(entry.get("tool_calls", ())),
            entry.get("name", ""),
            entry.get("tool_call_id", ""),
            entry.get("weight") != 0,
        )
        for entry in raw
    )


def messages_to_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Plain data; what a message does not have is left out."""
    return [
        {"role": message.role, "content": message.content}
        | ({"tools": list(message.tools)} if message.tools else {})
        | ({"tool_calls": list(message.tool_calls)} if message.tool_calls else {})
        | ({"name": message.name} if message.name else {})
        | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})
        | ({} if message.learn else {"weight": 0})
        for message in messages
    ]
