"""Words: what does not matter to a comparison, and what does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.words import normalised_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("Café CAFÉ Cafe\u0301", ["cafe", "cafe", "cafe"]),
        ("Ｆｕｌｌ width１２", ["full", "width12"]),
        ("don't stop-it", ["don", "t", "stop", "it"]),
        ("中文字 abc漢d", ["中", "文", "字", "abc", "漢", "d"]),
        ("ภาษา", list("ภาษา")),
        ("Ελλάδα Россия", ["ελλαδα", "россия"]),
        ("\U00020000\U00020001", ["\U00020000", "\U00020001"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("😀 a_b", ["a", "b"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert normalised_words(text) == words


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_words_that_normalise_to_themselves(text: str) -> None:
    words = normalised_words(text)
    assert normalised_words(" ".join(words)) == words
