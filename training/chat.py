"""A conversation with a model, in the template it was trained on.

The template is the one stored with the model (``training.chat_template``); what anybody says in the conversation is
text to it. When the conversation outgrows the context, its oldest exchanges are forgotten, the system message last.
"""

from collections.abc import Iterator
from pathlib import Path

from infra.errors import InputError
from training.chat_template import chat_template
from training.generate import Sampling
from training.text_model import TextModel, load_text_model

Message = dict[str, str]


class ChatSession:
    """Holds the conversation. ``stream`` yields the reply as it is written; ``reply`` returns it whole."""

    def __init__(
        self,
        model: TextModel,
        template: str,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.model = model
        self.template = template
        self.sampling = sampling or Sampling()
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []

    @classmethod
    def open(cls, folder: Path, *, system: str | None = None, sampling: Sampling | None = None) -> "ChatSession":
        """A session with the model in a folder. Raises InputError if it was never taught to chat."""
        template = chat_template(folder)
        if template is None:
            raise InputError(
                "the model has no chat template",
                where=str(folder),
                remedy="Use a model after SFT, or `headwater generate` for plain continuation.",
            )
        return cls(load_text_model(folder), template, system=system, sampling=sampling)

    def reply(self, text: str) -> str:
        """Say something and wait for the whole answer."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Say something; the answer's pieces. The answer joins the conversation, also when it is cut short."""
        self.messages.append({"role": "user", "content": text})
        sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + len(self.messages)})
        try:
            prompt = self._prompt()
        except InputError:
            self.messages.pop()
            raise
        pieces: list[str] = []
        try:
            for piece in self.model.stream_text(prompt, sampling):
                # A template puts no space before a reply; a word-initial token brings one.
                piece = piece if pieces else piece.lstrip()
                if piece:
                    pieces.append(piece)
                    yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(pieces).strip()})

    def _prompt(self) -> list[int]:
        """The conversation's tokens, its oldest exchanges dropped until a reply fits behind it."""
        limit = self.model.decoder.config.max_position
        room = limit - min(self.sampling.max_new_tokens, limit // 2)
        first = 1 if self.messages[0]["role"] == "system" else 0
        chat = self.model.chat_format(self.template)
        kept = list(self.messages)
        while len(tokens := chat.ids(kept)) > room:
            if len(kept) - first < 3:
                raise InputError(
                    f"the message takes {len(tokens)} tokens; the model has room for {room}", remedy="Shorten it."
                )
            del kept[first : first + 2]
        self.messages = kept
        return tokens
