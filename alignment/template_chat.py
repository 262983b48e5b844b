"""Chats of a model from elsewhere, in the form of its own tokenizer and chat template (``training.chat_template``)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HubTokenizer

from alignment.forms import messages_to_json
from alignment.turns import Call, Message, Rendered
from infra.errors import InputError
from pipeline.tokenizer import Tokenizer
from training.chat_template import ChatFormat, chat_template
from training.hub_tokenizer import SpecialTokens, decode, load_tokenizer, special_tokens


def chat_tokenizer(folder: Path) -> "AnyTokenizer":
    """The tokenizer of a model folder: our own, or one with a template."""
    if (folder / "tokenizer.model").exists():
        try:
            return Tokenizer.load(folder)
        except InputError:  # SentencePiece, but with other special tokens
            pass
    template = chat_template(folder)
    if template is None:
        raise InputError(
            "the model has no chat template", where=str(folder), remedy="Take the chat variant of the model."
        )
    tokenizer = load_tokenizer(folder)
    found = FolderTokenizer(tokenizer, special_tokens(folder, tokenizer), template, str(folder))
    if found.reply("yes")[-1] not in found.stop_ids:
        raise InputError(
            "the chat template ends no reply with a token that the model stops at",
            where=str(folder),
            remedy="Name that token in eos_token_id of its generation_config.json.",
        )
    return found


class FolderTokenizer:
    """The tokenizer of a model from elsewhere, whose chats have a form of their own: that of its chat template."""

    def __init__(self, tokenizer: HubTokenizer, special: SpecialTokens, template: str, where: str) -> None:
        self._tokenizer, self._special, self._where = tokenizer, special, where
        self._format = ChatFormat(tokenizer, template, special)

    @property
    def pad_id(self) -> int:
        return self._special.filler

    @property
    def stop_ids(self) -> list[int]:
        return list(self._special.stops)

    def decode(self, ids: Sequence[int]) -> str:
        return decode(self._tokenizer, ids)

    def control_name(self, token: int) -> str:
        """The name of a control token; empty for any other."""
        found = self._tokenizer.get_added_tokens_decoder().get(token)
        return found.content if found is not None and found.special else ""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A chat up to where the assistant's words begin."""
        return self._format.ids(*_as_given(messages))

    def reply(self, text: str) -> list[int]:
        """An assistant's words and their end, as they follow a prompt."""
        asked = Message("user", "?")
        chat, prompt = self.chat([asked, Message("assistant", text)], [False, True]), self.prompt([asked])
        # A template's marks may go around the head of the turn as well, which the prompt ends with already.
        start = len(prompt) if chat.ids[: len(prompt)] == prompt else 0
        return [token for token, counts in zip(chat.ids[start:], chat.loss_mask[start:], strict=True) if counts]

    def chat(self, messages: Sequence[Message], learnt: Sequence[bool]) -> Rendered:
        """A whole chat; the loss counts the words and the end of the ``learnt`` messages."""
        stripped = [replace(message, content=message.content.strip()) for message in messages]
        chat = self._format.with_loss_mask(*_as_given(stripped))
        replies = [teaches for message, teaches in zip(messages, learnt, strict=True) if message.role == "assistant"]
        runs = [list(run) for marked, run in groupby(range(len(chat.ids)), key=chat.loss_mask.__getitem__) if marked]
        if len(runs) != len(replies):
            raise InputError(
                f"the chat template marks {len(runs)} replies in a chat of {len(replies)}",
                where=self._where,
                remedy="Mark the assistant's words in it with {% generation %}.",
            )
        learn = [False] * len(chat.ids)
        for run, teaches in zip(runs, replies, strict=True):
            for index in self._to_its_end(chat.ids, run) if teaches else ():
                learn[index] = True
        return Rendered(chat.ids, learn)

    def _to_its_end(self, ids: Sequence[int], run: Sequence[int]) -> range:
        """A reply up to the token that ends it: a template may put more behind it, or leave it out of its mark."""
        for index in range(run[0], min(run[-1] + 2, len(ids))):
            if ids[index] in self._special.stops:
                return range(run[0], index + 1)
        return range(run[0], run[-1] + 1)


AnyTokenizer = Tokenizer | FolderTokenizer


def _as_given(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[Call] | None]:
    """Messages and tools as templates take them. A system turn that only told of tools is none."""
    plain = messages_to_json(messages)
    tools = plain[0].pop("tools", None) if plain else None
    return (plain[1:] if tools and not plain[0]["content"] else plain), tools
