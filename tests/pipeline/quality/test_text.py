"""The scanner: words, lines, paragraphs and sentences, on texts counted by hand and on any Unicode."""

from itertools import groupby

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.quality.characters import DIGIT, LETTER, MARK, SPACE, TABLE_SIZE, UNSPACED, character_tables
from pipeline.quality.scanner import HASH_PRIME, HASH_START
from pipeline.quality.text import view_texts, word_hash

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aB1 .\n\t手ทк…\u0301'\"-#{")), max_size=200)


def words_by_hand(text: str) -> list[str]:
    """The definition of a word, written once more without any speed."""
    classes = character_tables().classes

    def kind(character):
        return int(classes[ord(character)]) if ord(character) < TABLE_SIZE else 0

    words, current, unspaced = [], "", False

    def close():
        nonlocal current
        while current and not kind(current[-1]) & (LETTER | DIGIT | MARK):
            current = current[:-1]
        if current:
            words.append(current)
        current = ""

    for character in text:
        flags = kind(character)
        if flags & (LETTER | DIGIT):
            if current and (flags & UNSPACED or unspaced):
                close()
            if not current:
                unspaced = bool(flags & UNSPACED)
            current += character
        elif flags & MARK:
            current += character if current else ""
        elif flags & SPACE or unspaced:
            close()
        elif current:
            current += character
    close()
    return words


def test_words_lose_the_punctuation_around_them_but_not_inside():
    view = view_texts(['"Hello," she said: it\'s well-known… (really)']).word_hash
    expected = ["hello", "she", "said", "it's", "well-known", "really"]
    assert view.tolist() == [word_hash(word) for word in expected]


def test_counts_of_a_document():
    view = view_texts(["One two. Three!\n\n  # … ok  \n- a {b}\n"])
    assert view.characters.tolist() == [36]
    assert view.newlines.tolist() == [4]
    assert view.words.tolist() == [6]  # One two Three ok a b
    assert view.symbol_tokens.tolist() == [3]  # # … -
    assert view.hash_signs.tolist() == [1]
    assert view.ellipses.tolist() == [1]
    assert view.line_length.tolist() == [15, 6, 7]
    assert view.line_width.tolist() == [15, 10, 7]
    assert view.line_sentences.tolist() == [2, 1, 1]
    assert view.line_braces.tolist() == [0, 0, 1]
    assert view.line_words.tolist() == [3, 1, 2]
    assert view.paragraphs.tolist() == [2]
    assert view.paragraph_length.tolist() == [15, 13]
    assert [chr(code) for code in view.line_first] == ["O", "#", "-"]
    assert [chr(code) for code in view.line_last] == ["!", "k", "}"]


def test_scripts_without_spaces_give_a_word_a_letter_and_fewer_estimated_words():
    view = view_texts(["我喜欢读书。", "ฉันรักแมว", "iPhone手机"])
    assert view.words.tolist() == [5, 7, 3]  # Thai vowel signs above and tone marks belong to their letter
    assert view.unspaced_words.tolist() == [5, 7, 2]
    assert view.estimated_words.tolist() == [3, 2, 2]  # two ideographs a word, four letters of Thai


def test_sentences_need_an_end_and_white_space():
    view = view_texts(['He said "no." Then he left. v1.2 is out', "第一句。第二句！", "...", "Wait... what?!"])
    assert view.sum_lines(view.line_sentences).tolist() == [3, 2, 0, 2]


def test_ellipses_are_counted_as_in_the_text():
    view = view_texts(["a... b… c.... d......", "end...\nend…\nend.."])
    assert view.ellipses.tolist() == [5, 2]
    assert view.line_ellipsis.tolist() == [True, True, True, False]


def test_phrases_stay_within_a_line():
    view = view_texts(["Our Privacy Policy\nprivacy\npolicy", "the privacy, policy."])
    assert view.lines_with_phrase("privacy policy").tolist() == [True, False, False, True]


def test_an_arrow_slice_is_read_in_place():
    column = pa.array(["first text", "second", "third one here"], pa.large_string()).slice(1)
    assert view_texts(column).words.tolist() == [1, 3]


def test_no_documents_and_no_text():
    assert view_texts([]).words.tolist() == []
    view = view_texts(["", " \n\t\n "])
    assert view.words.tolist() == view.lines.tolist() == view.paragraphs.tolist() == [0, 0]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_text_has_the_words_of_the_definition(text):
    view = view_texts([text])
    words = words_by_hand(text)
    lower = character_tables().lower

    def hashed(word):
        value = HASH_START
        for character in word:
            code = ord(character)
            value = ((value ^ (int(lower[code]) if code < TABLE_SIZE else code)) * HASH_PRIME) & (2**64 - 1)
        return value

    assert view.word_length.tolist() == [len(word) for word in words]
    assert view.word_hash.tolist() == [hashed(word) for word in words]
    assert view.characters.tolist() == [len(text)]
    assert view.newlines.tolist() == [text.count("\n")]


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, max_size=6))
def test_documents_of_a_batch_do_not_touch_each_other(texts):
    together = view_texts(texts)
    alone = [view_texts([text]) for text in texts]
    for name in ("words", "lines", "paragraphs", "symbol_tokens", "ellipses", "hash_signs", "word_characters"):
        assert getattr(together, name).tolist() == [int(getattr(view, name)[0]) for view in alone], name
    for name in ("word_hash", "line_hash", "line_length", "line_sentences", "line_ellipsis", "paragraph_hash"):
        parts = [getattr(view, name) for view in alone]
        assert getattr(together, name).tolist() == (np.concatenate(parts).tolist() if parts else []), name


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_lines_are_the_text_between_newlines(text):
    classes = character_tables().classes
    space = "".join(chr(code) for code in np.flatnonzero(classes & SPACE))
    lines = [line.strip(space) for line in text.split("\n")]
    view = view_texts([text])
    assert view.line_length.tolist() == [len(line) for line in lines if line]
    assert [chr(code) for code in view.line_last] == [line[-1] for line in lines if line]
    assert view.line_braces.tolist() == [line.count("{") for line in lines if line]
    assert view.paragraphs.tolist() == [sum(filled for filled, _ in groupby(lines, key=bool))]
