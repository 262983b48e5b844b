"""How a chat is written down, as Jinja for Hugging Face.

    <s><|system|>…<|end|><|user|>…<|end|><|assistant|>…<|end|>

There is no white space between the parts, and that around a message's words is not part of it. A prompt ends with
``<|assistant|>``, and a reply ends with ``<|end|>``.

The functions that an assistant may call are listed in the system turn, which opens the chat for them if there is none;
its calls are a part of its words, and their results come in system turns, which no person can write:

    <|system|>…<tools>…</tools><|end|> … <|assistant|><tool_call>{"name": …}</tool_call><|end|><|system|><tool_response>…

The words of an assistant and the ``<|end|>`` after them stand between ``{% generation %}`` marks, by which others'
training programs know what to teach (``return_assistant_tokens_mask``, TRL's ``assistant_only_loss``).

The written form is for people and for Hugging Face. In our own code a chat is made of ids (the words encoded, the
special tokens added by id), so a message that spells ``<|end|>`` cannot end its own turn. ``written_turn`` is the same for one
message; a test holds the two together.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

TOOLS_HEAD = (
    "You may call functions. To call one, write its name and arguments as JSON between <tool_call> and </tool_call>. "
    "They are:\n<tools>\n"
)
TOOLS_TAIL = "</tools>"
RESULT = ("<tool_response>\n", "\n</tool_response>")

CHAT_TEMPLATE = (
    "{%- macro words(message) -%}{{ (message['content'] or '') | trim }}{%- endmacro -%}"
    "{%- macro list_of(tools) -%}"
    f"{{{{ {json.dumps(TOOLS_HEAD)} }}}}"
    "{%- for tool in tools -%}{{ tool | tojson + '\\n' }}{%- endfor -%}"
    f"{{{{ {json.dumps(TOOLS_TAIL)} }}}}"
    "{%- endmacro -%}"
    "{{ bos_token }}"
    "{%- if tools -%}"
    "{%- set opening = words(messages[0]) if messages and messages[0]['role'] == 'system' else '' -%}"
    "{{ '<|system|>' + opening + ('\\n\\n' if opening else '') + list_of(tools) + '<|end|>' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
    "{{ raise_exception('a message has the role ' + message['role'] + '; known are system, user, assistant, tool') }}"
    "{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ '<|assistant|>' }}{%- generation -%}"
    "{{ words(message) }}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{%- set asked = call['function'] or call -%}"
    "{{ '\\n' if words(message) or not loop.first else '' }}"
    "{{ '<tool_call>\\n{\"name\": ' + (asked['name'] | tojson) + ', \"arguments\": ' }}"
    "{{ asked['arguments'] if asked['arguments'] is string else asked['arguments'] | tojson }}"
    "{{ '}\\n</tool_call>' }}"
    "{%- endfor -%}"
    "{{ '<|end|>' }}{%- endgeneration -%}"
    "{%- elif message['role'] == 'tool' -%}"
    f"{{{{ '<|system|>' + {json.dumps(RESULT[0])} + words(message) + {json.dumps(RESULT[1])} + '<|end|>' }}}}"
    "{%- elif not (tools and loop.first and message['role'] == 'system') -%}"
    "{{ '<|' + message['role'] + '|>' + words(message) + '<|end|>' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def written_turn(
    role: str, content: str, tools: Sequence[Mapping[str, Any]] = (), calls: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, str]:
    """Whose control token opens a message's turn, and the words in it. ``tools`` belong to a leading system message."""
    words = content.strip()
    if tools:
        listed = TOOLS_HEAD + "".join(_json(tool) + "\n" for tool in tools) + TOOLS_TAIL
        return role, f"{words}\n\n{listed}" if words else listed
    if role == "tool":
        return "system", f"{RESULT[0]}{words}{RESULT[1]}"
    parts = [words] if words else []
    for call in calls:
        asked = call.get("function") or call
        arguments = asked["arguments"] if isinstance(asked["arguments"], str) else _json(asked["arguments"])
        parts.append(f'<tool_call>\n{{"name": {_json(asked["name"])}, "arguments": {arguments}}}\n</tool_call>')
    return role, "\n".join(parts)


def _json(value: Any) -> str:
    """As ``tojson`` of ``transformers`` writes it."""
    return json.dumps(value, ensure_ascii=False)
