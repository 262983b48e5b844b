"""An engine's answers in OpenAI's shapes, whole and in chunks.

A chunk is written many times a second for each stream: all of it that does not change is made once.
"""

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.web.openai_requests import Asked, ChatAsked, CompletionAsked
from flows.web.site import ServedModel
from flows.web.streams import event

if TYPE_CHECKING:
    from training.replies import Ask, Piece, PromptRead, TokenLogprob


@dataclass
class Choice:
    """One reply, as far as it has come."""

    text: str = ""
    tokens: int = 0
    logprobs: "list[TokenLogprob]" = field(default_factory=list)
    finish: str | None = None
    begun: bool = False


class Replies(ABC):
    """The choices of one request: ``n`` for each of its prompts."""

    object = ""
    chunk_object = ""
    prefix = ""

    def __init__(self, asked: Asked, asks: "Sequence[Ask]", model: ServedModel) -> None:
        self.asked, self.asks, self.model = asked, asks, model
        self.choices = [Choice() for _ in range(len(asks) * asked.choices)]
        self.prompts: dict[int, tuple[TokenLogprob, ...]] = {}
        self.error = ""
        self.about = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": self.object,
            "created": int(time.time()),
            "model": model.id,
        }
        chunk = json.dumps(self.about | {"object": self.chunk_object}, separators=(",", ":"))
        self._head = f'data: {chunk[:-1]},"choices":[{{"index":'
        self._tail = '}],"usage":null}\n\n' if asked.with_usage else "}]}\n\n"

    def take(self, place: int, piece: "Piece | PromptRead") -> "tuple[int, Piece] | None":
        """A reply's piece, and which choice it belongs to."""
        reply = getattr(piece, "reply", None)
        if reply is None:
            self.prompts[place] = piece.logprobs
            return None
        index = place * self.asked.choices + reply
        choice = self.choices[index]
        choice.tokens = piece.tokens  # type: ignore[union-attr]
        self.error = self.error or piece.error  # type: ignore[union-attr]
        return index, piece  # type: ignore[return-value]

    def whole(self, pieces: "Sequence[tuple[int, Piece | PromptRead]]") -> dict[str, Any]:
        for place, piece in pieces:
            if (taken := self.take(place, piece)) is not None:
                index, part = taken
                choice = self.choices[index]
                choice.text += self.clean(choice, part.text)
                choice.logprobs += part.logprobs
                choice.finish = part.finish
        return self.about | {
            "choices": [self.choice(index, choice) for index, choice in enumerate(self.choices)],
            "usage": self.usage(),
            **self.extra(),
        }

    def render(self, place: int, piece: "Piece | PromptRead") -> Iterator[bytes]:
        """The chunks of a piece."""
        taken = self.take(place, piece)
        if taken is None:
            return
        index, part = taken
        if part.error:
            yield event({"error": {"message": part.error, "type": "server_error", "param": None, "code": None}})
            return
        choice = self.choices[index]
        text = self.clean(choice, part.text)
        choice.text = choice.text or text  # whether there was any
        if not (text or part.logprobs or part.finish):
            return
        finish = json.dumps(part.finish)
        yield f'{self._head}{index},{self.delta(index, text, part)},"finish_reason":{finish}{self._tail}'.encode()

    def last(self) -> Iterator[bytes]:
        if self.asked.with_usage:
            yield event(self.about | {"object": self.chunk_object, "choices": [], "usage": self.usage()})

    def usage(self) -> dict[str, int]:
        read = sum(len(ask.prompt) for ask in self.asks)
        written = sum(choice.tokens for choice in self.choices)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def clean(self, choice: Choice, text: str) -> str:
        return text

    @abstractmethod
    def first(self) -> Iterator[bytes]:
        """The chunks before the first piece."""

    @abstractmethod
    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """A whole reply, as one of ``choices``."""

    @abstractmethod
    def delta(self, index: int, text: str, part: "Piece") -> str:
        """What a chunk says of a piece, as the fields of a JSON object."""

    def extra(self) -> dict[str, Any]:
        return {}

    def judged(self, place: int) -> list[dict[str, Any] | None] | None:
        """The prompt's tokens as ``prompt_logprobs`` gives them; the first has none."""
        if self.asked.prompt_logprobs is None or place not in self.prompts:
            return None
        return [None, *(self._judged(each) for each in self.prompts[place])]

    def _judged(self, known: "TokenLogprob") -> dict[str, Any]:
        top = known.top[: self.asked.prompt_logprobs]
        ranked = {token: (value, rank) for rank, (token, value) in enumerate(top, 1)}
        ranked.setdefault(known.token, (known.log_prob, known.rank))
        return {
            str(token): {"logprob": value, "rank": rank, "decoded_token": readable(self.model, token)}
            for token, (value, rank) in ranked.items()
        }


class ChatReplies(Replies):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"
    asked: ChatAsked

    def first(self) -> Iterator[bytes]:
        for index in range(len(self.choices)):
            start = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
            yield f"{self._head}{index},{start}{self._tail}".encode()

    def clean(self, choice: Choice, text: str) -> str:
        """A template puts no space before a reply; a word-initial token brings one."""
        return text if choice.text or self.asked.continue_final_message else text.lstrip()

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish,
        }

    def delta(self, index: int, text: str, part: "Piece") -> str:
        content = f'{{"content":{json.dumps(text)}}}' if text or part.logprobs else "{}"
        logprobs = json.dumps(self._logprobs(part.logprobs)) if self.asked.logprobs else "null"
        return f'"delta":{content},"logprobs":{logprobs}'

    def extra(self) -> dict[str, Any]:
        return {} if self.asked.prompt_logprobs is None else {"prompt_logprobs": self.judged(0)}

    def _logprobs(self, tokens: "Sequence[TokenLogprob]") -> dict[str, Any] | None:
        if not self.asked.logprobs:
            return None
        content = [
            self._entry(each.token, each.log_prob)
            | {"top_logprobs": [self._entry(token, value) for token, value in each.top]}
            for each in tokens
            if not each.ends
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        model = self.model.model
        spelt = None if token in model.controls else list(model.token_bytes(token))
        return {"token": readable(self.model, token), "logprob": finite(log_prob), "bytes": spelt}


class CompletionReplies(Replies):
    object = "text_completion"
    chunk_object = "text_completion"
    prefix = "cmpl"
    asked: CompletionAsked

    def echoed(self, place: int) -> str:
        """The prompt as it was given."""
        if not self.asked.echo:
            return ""
        given = self.asked.prompt
        if isinstance(given, str):
            return given
        if isinstance(given, list) and isinstance(given[place], str):
            return str(given[place])
        return self.model.model.decode(self.asks[place].prompt)

    def first(self) -> Iterator[bytes]:
        return iter(())

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        place = index // self.asked.choices
        echoed = self.echoed(place)
        found = {
            "index": index,
            "text": echoed + choice.text,
            "logprobs": self._logprobs(place, choice.logprobs, len(echoed), with_prompt=bool(self.asked.echo)),
            "finish_reason": choice.finish,
        }
        return found if self.asked.prompt_logprobs is None else found | {"prompt_logprobs": self.judged(place)}

    def delta(self, index: int, text: str, part: "Piece") -> str:
        choice, place = self.choices[index], index // self.asked.choices
        echoed = self.echoed(place)
        first, choice.begun = not choice.begun, True
        logprobs = self._logprobs(place, part.logprobs, len(echoed), with_prompt=first and bool(self.asked.echo))
        return f'"text":{json.dumps(echoed + text if first else text)},"logprobs":{json.dumps(logprobs)}'

    def _logprobs(
        self, place: int, reply: "Sequence[TokenLogprob]", offset: int, with_prompt: bool
    ) -> dict[str, Any] | None:
        """OpenAI's older form, which evaluation harnesses read: parallel lists."""
        if self.asked.top is None:
            return None
        tokens: list[str] = []
        log_probs: list[float | None] = []
        top: list[dict[str, float] | None] = []
        offsets: list[int] = []
        if with_prompt:
            at = 0
            judged = self.prompts.get(place, ())
            for number, token in enumerate(self.asks[place].prompt):
                tokens.append(readable(self.model, token))
                log_probs.append(finite(judged[number - 1].log_prob) if number else None)
                top.append(self._alternatives(judged[number - 1]) if number else None)
                offsets.append(at)
                at += 0 if token in self.model.model.controls else len(tokens[-1])
        for each in reply:
            tokens.append(readable(self.model, each.token))
            log_probs.append(finite(each.log_prob))
            top.append(self._alternatives(each))
            offsets.append(offset + each.at)
        return {
            "tokens": tokens,
            "token_logprobs": log_probs,
            "top_logprobs": top if self.asked.top else None,
            "text_offset": offsets,
        }

    def _alternatives(self, known: "TokenLogprob") -> dict[str, float]:
        """The likeliest, and the token itself; of two that look alike the likelier."""
        found: dict[str, float] = {}
        for token, value in [*known.top[: self.asked.top], (known.token, known.log_prob)]:
            found.setdefault(readable(self.model, token), finite(value))
        return found


def readable(model: ServedModel, token: int) -> str:
    """A token as text; one that is no whole character by its bytes, as OpenAI writes it."""
    spelt = model.model.token_bytes(token)
    try:
        return spelt.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)


def finite(log_prob: float) -> float:
    """JSON has no minus infinity; OpenAI writes this."""
    return max(log_prob, -9999.0)
