"""A model's chat template: from a conversation to the ids that the model reads.

The template is Jinja text that comes with the model, from anywhere, and is rendered as ``transformers`` renders it, in a
sandbox. Its output mixes what the template wrote, where ``<|im_end|>`` is a control token, with what people and models
said, where it is ten characters. To keep them apart,

* names of control tokens inside messages lose their first character to a stand-in before rendering;
* after rendering, the names that are left are the template's own: they are replaced by secret names, which only a copy
  of the tokenizer knows (``sealed``), and the stand-ins become characters again.

The copy gives each text the ids that the tokenizer itself would give, white space rules included, except that no text
can become a control token. The secret is drawn anew in each process and never leaves it.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from infra.errors import InputError
from training.hub_tokenizer import SpecialTokens, encode, encode_places, read_object

CHAT_TEMPLATE = "chat_template.jinja"
Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None
"""The functions that the assistant may call, as JSON schemas."""


def chat_template(folder: Path) -> str | None:
    """The chat template of a model or tokenizer folder, or None. Of several, the one called ``default``."""
    path = folder / CHAT_TEMPLATE
    if path.exists():
        return path.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = read_object(settings).get("chat_template") if settings.exists() else None
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


@dataclass(frozen=True)
class EncodedChat:
    """A conversation's ids, and for each whether it is what the assistant says, which a loss counts."""

    ids: list[int]
    loss_mask: list[bool]


class ChatFormat:
    """A chat template together with the tokenizer it was made for."""

    def __init__(self, tokenizer: Tokenizer, template: str, special: SpecialTokens) -> None:
        self.tokenizer = tokenizer
        self._secret = secrets.token_hex(8)
        added = tokenizer.get_added_tokens_decoder()
        self._controls = {token.content: index for index, token in added.items() if token.special}
        self._names = special.names
        self.template = template

    def ids(self, messages: Sequence[Message], tools: Tools = None, *, prompt: bool = True) -> list[int]:
        """The conversation's ids; with ``prompt``, up to the start of the next reply."""
        return self.encode(self.text(messages, tools, prompt=prompt))

    def continued(self, messages: Sequence[Message]) -> list[int]:
        """The conversation's ids up to the end of what its last message says, for the model to go on with it."""
        end = secrets.token_hex(16)
        *before, last = messages
        whole = self.text([*before, {**last, "content": f"{last['content']}{end}"}], prompt=False)
        text, found, _ = whole.rpartition(end)
        if not found:
            raise InputError("the chat template does not write the last message as it stands: it cannot be continued")
        return self.encode(text)

    def text(self, messages: Sequence[Message], tools: Tools = None, *, prompt: bool = True) -> str:
        """The conversation as sealed text, which ``encode`` reads."""
        return self._seal(self._render(messages, tools, prompt))[0]

    def encode(self, sealed: str) -> list[int]:
        """The ids of sealed text, or of any text: control tokens are only where a template put them."""
        return encode(self._sealed_tokenizer, sealed)

    def with_loss_mask(self, messages: Sequence[Message], tools: Tools = None) -> EncodedChat:
        """A whole conversation with what the assistant says marked: the template's ``{% generation %}`` blocks, or,
        where it has none, what each assistant message adds to the prompt before it."""
        text, spans = self._seal(self._render(messages, tools, prompt=False))
        if not spans:
            spans = self._added_spans(messages, tools, text)
        ids, places = encode_places(self._sealed_tokenizer, text)
        loss_mask = [any(max(first, start) < min(last, end) for start, end in spans) for first, last in places]
        return EncodedChat(ids, loss_mask)

    def _added_spans(self, messages: Sequence[Message], tools: Tools, whole: str) -> list[tuple[int, int]]:
        spans = []
        for index, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            before, after = self.text(messages[:index], tools), self.text(messages[: index + 1], tools, prompt=False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise InputError(
                    "the chat template writes earlier turns differently once later ones follow",
                    remedy="Mark the assistant's words in it with {% generation %}.",
                )
            spans.append((len(before), len(after)))
        return spans

    def _render(self, messages: Sequence[Message], tools: Tools, prompt: bool) -> str:
        inert, named = self._inert(messages), self._inert(tools) if tools else None
        return render(self._compiled, inert, tools=named, add_generation_prompt=prompt, **self._names)

    @cached_property
    def _compiled(self) -> Template:
        return compile_template(self.template, (self._mark("open"), self._mark("close")))

    def _mark(self, name: str) -> str:
        """Characters for private use around the secret: nothing that anybody wrote, and no white space to be trimmed."""
        return f"\U000f0000{self._secret}{name}\U000f0001"

    def _secret_name(self, token: int) -> str:
        return self._mark(f"t{token}")

    @cached_property
    def _starts(self) -> re.Pattern[str]:
        """Matches the first character of each control token's name in a text, overlapping names included."""
        return re.compile(f"(?=(?:{self._alternatives}))(?s:.)") if self._controls else re.compile("(?!)")

    @cached_property
    def _alternatives(self) -> str:
        return "|".join(re.escape(name) for name in sorted(self._controls, key=len, reverse=True) if name)

    def _inert(self, value: Any) -> Any:
        """Messages with a stand-in for the first character of each control token's name, in every string of them."""
        if isinstance(value, str):
            return self._starts.sub(lambda found: self._mark(f"c{ord(found[0])}"), value)
        if isinstance(value, Mapping):
            return {self._inert(key): self._inert(entry) for key, entry in value.items()}
        if isinstance(value, Sequence):
            return [self._inert(entry) for entry in value]
        return value

    def _seal(self, rendered: str) -> tuple[str, list[tuple[int, int]]]:
        """Rendered text with secret names, and where the blocks of generated text lie in it."""
        names = self._alternatives or "(?!)"
        pattern = re.compile(f"\U000f0000{self._secret}(?P<mark>[a-z]+)(?P<code>[0-9]*)\U000f0001|(?P<name>{names})")
        text, spans, opened, at = "", [], 0, 0
        for found in pattern.finditer(rendered):
            text += rendered[at : found.start()]
            at = found.end()
            if found["name"] is not None:
                text += self._secret_name(self._controls[found["name"]])
            elif found["mark"] == "c":
                text += chr(int(found["code"]))
            elif found["mark"] == "open":
                opened = len(text)
            else:
                spans.append((opened, len(text)))
        return text + rendered[at:], spans

    @cached_property
    def _sealed_tokenizer(self) -> Tokenizer:
        """The tokenizer with its control tokens under secret names."""
        raw = json.loads(self.tokenizer.to_str())
        secret = {name: self._secret_name(token) for name, token in self._controls.items()}
        for token in raw["added_tokens"]:
            token["content"] = secret.get(token["content"], token["content"])
        model = raw["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {secret.get(piece, piece): index for piece, index in vocabulary.items()}
        else:
            model["vocab"] = [[secret.get(piece, piece), score] for piece, score in vocabulary]
        if model.get("unk_token") in secret:
            model["unk_token"] = secret[model["unk_token"]]
        # It names control tokens as well, and nothing here asks it for any.
        raw["post_processor"] = None
        sealed = Tokenizer.from_str(json.dumps(raw))
        sealed.encode_special_tokens = False
        return sealed


class _GenerationBlock(Extension):
    """``{% generation %} … {% endgeneration %}``: what the model says, for those who teach it."""

    tags = {"generation"}  # noqa: RUF012 (as the library declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_between_marks"), [], [], body).set_lineno(line)

    def _between_marks(self, caller: Macro) -> str:
        first, last = cast(tuple[str, str], self.environment.globals["generation_marks"])
        return f"{first}{caller()}{last}"


def compile_template(template: str, marks: tuple[str, str] = ("", "")) -> Template:
    """A template by ``transformers``' rules, in a sandbox. ``marks`` go around each block of generated text."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now, "generation_marks": marks}
    environment.filters["tojson"] = _tojson
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise InputError(f"the chat template cannot be read: {error}") from error


def render(
    template: Template,
    messages: Sequence[Message],
    *,
    tools: Tools = None,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The conversation as text, by the variables that ``transformers`` gives."""
    given = {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
    try:
        return template.render(messages=list(messages), **given, **variables)
    except Exception as error:  # whatever a stranger's template does
        raise InputError(f"the chat template cannot render this conversation: {error}") from error


def _raise(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(value: Any, **how: Any) -> str:
    """Not Jinja's own, which escapes for HTML."""
    return json.dumps(value, **({"ensure_ascii": False} | how))
