"""A reader of another package that gives what cannot be stored is named, with what was wrong with it."""

from collections.abc import Callable
from typing import Any

import pytest

from infra.errors import ConfigError
from pipeline.document import document_id
from pipeline.sources.contract import SourceConfig, lost
from pipeline.sources.outside import checked

SOURCE = SourceConfig(name="letters", kind="my_mail:MBOX", address="x.mbox")
IDENTITY = document_id("letters", "", "1", "d")
ORIGIN = {"archive": "x.mbox", "offset": 0, "length": 9, "record_id": "1", "digest": "d"}
DOCUMENT = {"id": IDENTITY, "text": "Half a pair: \ud800.", "source": "letters", "title": None, "origin": ORIGIN}


def test_documents_and_fates_pass_as_they_are() -> None:
    outcomes = [DOCUMENT, {**DOCUMENT, "quality": 1}, lost(IDENTITY, "letters", "dropped", "no_text", score=0.5)]
    assert list(checked(iter(outcomes), SOURCE)) == outcomes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: None, "gives a NoneType"),
        (lambda document: document["text"], "gives a str"),
        (lambda document: document | {"text": 5}, "a document whose text is a int, no text"),
        (lambda document: document | {"text": None}, "a document without text"),
        (lambda document: document | {"text": ""}, "a document without text"),
        (lambda document: document | {"id": "abc"}, r"whose id is a str, no fixed_size_binary\[16\]"),
        (lambda document: document | {"id": b"abc"}, r"whose id is a bytes, no fixed_size_binary\[16\]"),
        (lambda document: document | {"source": "other"}, "of the source 'other', not of its own, 'letters'"),
        (lambda document: document | {"subject": "x"}, "with 'subject', and there is no such column"),
        (lambda document: {name: document[name] for name in ("id", "text", "source")}, "without origin"),
        (lambda document: document | {"origin": {"archive": "x"}}, "no mapping of archive, offset, length"),
        (lambda document: document | {"verdict": "dropped"}, "a fate with 'text'"),
    ],
)
def test_what_is_neither_is_said(change: Callable[[dict[str, Any]], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"the reader my_mail:MBOX .*{said}"):
        list(checked([DOCUMENT, change(DOCUMENT)], SOURCE))


def test_a_reader_that_returns_nothing_is_said() -> None:
    with pytest.raises(ConfigError, match="gives a NoneType in the place of outcomes"):
        list(checked(None, SOURCE))
