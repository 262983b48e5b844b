"""Talking in a terminal."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from flows.cli import chat
from infra.errors import InputError
from training.chat import ChatSession


class Session:
    """Answers what is short."""

    def stream(self, text: str) -> Iterator[str]:
        if len(text) > 10:
            raise InputError("the message takes 11 tokens", remedy="Shorten it.")
        yield text.upper()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["a message too long", "hello", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr(chat, "model_folder", lambda *arguments: nullcontext(Path()))
    monkeypatch.setattr(chat, "open_store", lambda workspace: None)
    monkeypatch.setattr(ChatSession, "open", lambda *arguments, **options: Session())


@pytest.mark.usefixtures("typed")
def test_a_message_that_is_too_long_does_not_end_the_talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    chat.command()
    assert "model> the message takes 11 tokens. Shorten it.\nmodel> HELLO\n" in capsys.readouterr().out


@pytest.mark.usefixtures("typed")
def test_but_it_fails_what_reads_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(InputError):
        chat.command()
