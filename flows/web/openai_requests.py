"""What OpenAI's clients ask, as what an engine is asked.

Fields that say nothing about the answer (``user``, ``metadata`` …) are passed over; those that ask for what this server
cannot do are refused with a sentence, never passed over.
"""

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flows.web.site import ServedModel
from infra.errors import InputError

if TYPE_CHECKING:
    from training.replies import Ask

MOST_CHOICES = 128
COMPLETION_TOKENS = 16
"""What OpenAI's completions write where nothing is said."""
TYPES = ("str", "int", "bool", "list[str]", "list[int]", "list[list[int]]")
NOT_DONE = (
    "min_tokens", "stop_token_ids", "bad_words", "allowed_token_ids", "use_beam_search", "include_stop_str_in_output",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "chat_template", "documents",
    "audio", "web_search_options",
)  # fmt: skip
"""Fields of OpenAI's and vLLM's that change the answer. All that are not known here are passed over."""
ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}


class ContextOverflow(InputError):
    """A prompt that leaves no room for a reply."""


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class Asked(BaseModel):
    """What both kinds of requests may say; null everywhere means as if it were left out."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > 64:
            raise ValueError("at most 64 stop texts")
        return stop

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_what_is_not_done(self) -> None:
        for name in NOT_DONE:
            if (self.model_extra or {}).get(name):
                raise InputError(f"`{name}` is not done here", where=name, remedy="Leave it out.")
        if (self.response_format or {}).get("type", "text") != "text":
            raise InputError(
                "this server writes free text", where="response_format", remedy="Leave out `response_format`."
            )
        if self.stream and self.prompt_logprobs is not None:
            raise InputError("`prompt_logprobs` comes whole", where="prompt_logprobs", remedy="Set `stream` to false.")

    def ask(
        self, model: ServedModel, prompt: Sequence[int], tokens: int | None, top: int | None, prompt_top: int | None
    ) -> "Ask":
        """What the engine is asked for one prompt; ``tokens`` None: as many as there is room for."""
        from training.generate import Sampling
        from training.replies import Ask

        room = model.context - len(prompt)
        read_only = tokens == 0
        if room < (0 if read_only else 1):
            raise ContextOverflow(
                f"the prompt has {len(prompt):,} tokens; the model's context is {model.context:,}",
                where="prompt",
                remedy="Shorten it.",
            )
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        sampling = Sampling(
            max_new_tokens=max(1, room if tokens is None else min(tokens, room)),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            # Nothing but the likeliest is left at 0, which has no logarithm of its own here.
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-9),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=self._biases(model.model.decoder.config.vocab_size),
            stop=tuple(stop for stop in stops if stop),
            seed=secrets.randbits(62) if self.seed is None else self.seed,
        )
        return Ask(tuple(prompt), sampling, self.choices, top, prompt_top, bool(self.ignore_eos), read_only)

    def _biases(self, vocabulary: int) -> tuple[tuple[int, float], ...]:
        found = []
        for token, value in (self.logit_bias or {}).items():
            if not token.strip().isdecimal() or int(token) >= vocabulary:
                raise InputError(
                    f"{token!r} is not a token's id",
                    where="logit_bias",
                    remedy=f"The model knows 0 to {vocabulary - 1}.",
                )
            found.append((int(token), max(-100.0, min(100.0, value))))
        return tuple(found)


class ChatAsked(Asked):
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None

    def ask_of(self, model: ServedModel) -> "Ask":
        self.refuse_what_is_not_done()
        if self.tools or self.functions:
            field = "tools" if self.tools else "functions"
            raise InputError("models here call no functions", where=field, remedy=f"Leave out `{field}`.")
        if set(self.modalities or ["text"]) != {"text"}:
            raise InputError("this server writes text only", where="modalities")
        if self.top_logprobs is not None and not self.logprobs:
            raise InputError(
                "`top_logprobs` needs `logprobs`", where="top_logprobs", remedy="Set `logprobs` to true as well."
            )
        if model.template is None:
            raise InputError(
                f"the model {model.id!r} was never taught to chat: it has no chat template",
                where="model",
                remedy="Use /v1/completions, or a model after SFT.",
            )
        messages = [_message(number, raw) for number, raw in enumerate(self.messages)]
        chat = model.model.chat_format(model.template)
        if self.continue_final_message:
            if messages[-1]["role"] != "assistant" or self.add_generation_prompt:
                raise InputError(
                    "only an assistant's message can be continued, and none begins then",
                    where="continue_final_message",
                    remedy="End `messages` with it, and leave out `add_generation_prompt`.",
                )
            prompt = chat.continued(messages)
        else:
            prompt = chat.ids(messages, prompt=self.add_generation_prompt is not False)
        tokens = self.max_completion_tokens or self.max_tokens
        return self.ask(
            model, prompt, tokens, (self.top_logprobs or 0) if self.logprobs else None, self.prompt_logprobs
        )


def _message(number: int, raw: dict[str, Any]) -> dict[str, str]:
    """A message as templates read it: a role they know, and text."""
    where = f"messages.{number}"
    role, content = raw.get("role"), raw.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"there is no role {role!r} here", where=where, remedy=f"Roles: {', '.join(ROLES)}.")
    if raw.get("tool_calls") or raw.get("function_call"):
        raise InputError("models here call no functions", where=where, remedy="Leave out what was called.")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else part
                raise InputError(f"models here read text only, not {kind!r}", where=where)
        content = "".join(part["text"] for part in content)
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise InputError("a message has no text", where=where, remedy="`content` is a text, or parts of type text.")
    return {"role": ROLES[role], "content": content}


class CompletionAsked(Asked):
    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    logprobs: bool | int | None = Field(default=None)
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @field_validator("logprobs")
    @classmethod
    def _so_many(cls, logprobs: bool | int | None) -> bool | int | None:
        if logprobs is not None and not 0 <= logprobs <= 20:
            raise ValueError("from 0 to 20")
        return logprobs

    @property
    def top(self) -> int | None:
        """``logprobs: true`` is not OpenAI's, but sent; false as well."""
        return None if self.logprobs is None or self.logprobs is False else int(self.logprobs)

    def asks_of(self, model: ServedModel, most: int) -> "list[Ask]":
        """One for each prompt."""
        self.refuse_what_is_not_done()
        if self.suffix:
            raise InputError("models here write on at the end only", where="suffix", remedy="Leave out `suffix`.")
        if (self.best_of or self.choices) != self.choices:
            raise InputError("this server ranks no replies", where="best_of", remedy="Ask for `n` and choose.")
        tokens = COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        prompts = self._prompts(model)
        if len(prompts) * self.choices > most:
            raise InputError(
                f"{len(prompts) * self.choices} replies are asked for at once; {most} may be",
                where="prompt",
                remedy="Send fewer prompts in a request.",
            )
        prompt_top = self.prompt_logprobs
        if self.echo and self.top is not None:
            prompt_top = max(self.top, prompt_top or 0)
        return [self.ask(model, prompt, tokens, self.top, prompt_top) for prompt in prompts]

    def _prompts(self, model: ServedModel) -> list[list[int]]:
        given = self.prompt
        if given is None or given == []:
            raise InputError("there is no prompt", where="prompt", remedy="Give a text, or ids of tokens.")
        several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        vocabulary = model.model.decoder.config.vocab_size
        found = []
        for each in several:
            ids = model.model.prompt(each) if isinstance(each, str) else list(each)  # type: ignore[call-overload]
            if not ids or not all(0 <= token < vocabulary for token in ids):
                raise InputError(
                    "a prompt has no tokens" if not ids else "a prompt has ids that the model does not know",
                    where="prompt",
                    remedy=f"The model knows 0 to {vocabulary - 1}.",
                )
            found.append(ids)
        return found


def parse(kind: Literal["chat", "completion"], body: bytes) -> Any:
    """A request's body. Raises InputError with the field that is wrong."""
    try:
        return (ChatAsked if kind == "chat" else CompletionAsked).model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        # Of a field of several types the location also names the one that was tried.
        where = ".".join(str(part) for part in first["loc"] if part not in TYPES)
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where or 'the body'}: {message}", where=where) from error
