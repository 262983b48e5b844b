"""Every measure against values computed by hand, and repetition against its definition."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from pipeline.quality.measures import Batch, as_arrow, measure, measure_texts
from pipeline.quality.rules import PRESETS, Rule


def measures_of(text, language="en", programming_language=None):
    columns = measure(Batch([text], [language], [programming_language]))
    return {name: float(column[0]) for name, column in columns.items()}


def test_gopher_word_measures():
    found = measures_of("the cat and ### 12 dogs sat with 7")
    assert found["words"] == 8
    assert found["mean_word_length"] == pytest.approx((3 + 3 + 3 + 2 + 4 + 3 + 4 + 1) / 8)
    assert found["hash_sign_ratio"] == pytest.approx(3 / 8)
    assert found["alphabetic_words"] == pytest.approx(6 / 9)  # of 9 tokens, 12, 7 and ### have no letter
    assert found["stop_words"] == 3  # the, and, with: each once


def test_gopher_line_measures():
    found = measures_of("• one\n- two...\nthree…\nfour")
    assert found["bullet_lines"] == pytest.approx(0.5)
    assert found["ellipsis_lines"] == pytest.approx(0.5)
    assert found["ellipsis_ratio"] == pytest.approx(2 / 4)


def test_stop_words_follow_the_language_and_are_undefined_without_a_list():
    assert measures_of("der Hund und die Katze", "de")["stop_words"] == 3
    assert np.isnan(measures_of("der Hund und die Katze", "xx")["stop_words"])
    assert np.isnan(measures_of("something", None)["stop_words"])


def test_mean_word_length_means_nothing_without_spaces():
    assert np.isnan(measures_of("我喜欢读书", "zh")["mean_word_length"])


def test_duplicate_lines_and_paragraphs():
    found = measures_of("same\nother\nsame\nsame\n\nblock\n\nblock")
    assert found["characters"] == 34
    assert found["duplicate_lines"] == pytest.approx(3 / 6)
    assert found["duplicate_line_characters"] == pytest.approx((4 + 4 + 5) / 34)
    assert found["duplicate_paragraphs"] == pytest.approx(1 / 3)
    assert found["duplicate_paragraph_characters"] == pytest.approx(5 / 34)


def test_top_ngram_is_the_most_frequent_one():
    text = "a bb a bb a bb cc"
    found = measures_of(text)
    assert found["top_2gram_characters"] == pytest.approx(3 * 4 / len(text))  # "a bb", three times
    assert found["top_3gram_characters"] == pytest.approx(2 * 7 / len(text))  # "bb a bb", longer than "a bb a"
    assert measures_of("all words differ here")["top_2gram_characters"] == 0


def test_duplicate_ngrams_do_not_count_characters_twice():
    text = "x " * 11  # 11 words: the first 5-gram is new, then words 2–6 and 7–11 repeat it
    assert measures_of(text)["duplicate_5gram_characters"] == pytest.approx(2 * 9 / 22)


def test_an_ngram_of_unspaced_text_is_twice_as_many_letters():
    text = "东西南北" * 3
    assert measures_of(text, "zh")["top_2gram_characters"] == pytest.approx(3 * 4 / 12)


def test_c4():
    text = (
        "This line has three sentences. It ends well. Or does it?\n"
        "too short.\n"
        "This line does not end\n"
        "Please enable JavaScript to see it all.\n"
        "We have a privacy policy you should read.\n"
        f"A line with {'x' * 1001} inside.\n"
        "Lorem ipsum dolor sit amet.\n"
        "function() { return {}; }"
    )
    found = measures_of(text)
    assert found["c4_sentences"] == 3 + 1  # the first line and Lorem ipsum
    assert found["c4_sentences_open_lines"] == 3 + 1 + 1  # and the open line; the code has two words only
    assert found["lorem_ipsum_lines"] == 1
    assert found["curly_brackets"] == 2


def test_c4_does_not_count_a_line_that_trails_off():
    assert measures_of("This line trails off...")["c4_sentences"] == 0


def test_fineweb():
    text = "A long line that is certainly more than thirty characters.\nshort\nHe said “yes”\n\n"
    found = measures_of(text)
    assert found["punctuated_lines"] == pytest.approx(2 / 3)
    assert found["short_lines"] == pytest.approx(2 / 3)
    assert found["newline_ratio"] == pytest.approx(4 / 14)


def test_refinedweb_counts_the_words_of_navigation_lines():
    text = "BREAKING NEWS TODAY\n12.03.2024\n3 likes\nHome\nSign in now\nThis is a line of running text that stays."
    words = 3 + 1 + 2 + 1 + 3
    assert measures_of(text)["navigation_line_words"] == pytest.approx(words / (words + 9))


def test_code():
    text = "# comment\nx = 1\n\n    yy = 22  # same line\n"
    found = measures_of(text, None, "Python")
    assert found["lines"] == 3
    assert found["longest_line"] == 24
    assert found["mean_line_length"] == pytest.approx((len(text) - 4) / 5)
    assert found["longest_word"] == 7
    assert found["comment_characters"] == pytest.approx(9 / (9 + 5 + 20))
    assert found["letter_characters"] == pytest.approx((7 + 1 + 2 + 8) / len(text))
    assert found["alphanumeric_characters"] == pytest.approx((7 + 1 + 2 + 8 + 1 + 2) / len(text))
    assert np.isnan(measures_of(text, None, "Brainfuck")["comment_characters"])


def test_xml_header():
    assert measures_of('<?xml version="1.0"?>\n<a/>')["xml_header"] == 1
    assert measures_of('print("<?xml")')["xml_header"] == 0


def test_every_rule_looks_at_a_measure_that_exists():
    assert {rule.attribute for rules in PRESETS.values() for rule in rules} <= set(measures_of("text"))


def test_undefined_values_are_stored_as_null():
    assert as_arrow(np.array([0.5, np.nan])).to_pylist() == [0.5, None]
    assert str(as_arrow(np.array([1, 2])).type) == "int64"


def repetition_by_hand(words: list[str], n: int) -> tuple[int, int]:
    """(characters of the top n-gram, characters of duplicate n-grams), by their definitions."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    def length(gram):
        return len(" ".join(gram))

    counts = Counter(grams)
    most = max(counts.values(), default=1)
    top = 0 if most == 1 else max(most * length(gram) for gram, count in counts.items() if count == most)
    seen, duplicate, place = set(), 0, 0
    while place < len(grams):
        if grams[place] in seen:
            duplicate += length(grams[place])
            place += n
        else:
            seen.add(grams[place])
            place += 1
    return top, duplicate


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "e"]), min_size=1, max_size=120))
def test_repetition_is_what_it_is_defined_to_be(words):
    text = " ".join(words)
    found = measures_of(text)
    for n in (2, 3, 4):
        assert found[f"top_{n}gram_characters"] == pytest.approx(repetition_by_hand(words, n)[0] / len(text))
    for n in (5, 6, 7, 8, 9, 10):
        assert found[f"duplicate_{n}gram_characters"] == pytest.approx(repetition_by_hand(words, n)[1] / len(text))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=120), max_size=5))
def test_measures_do_not_depend_on_the_batch_and_shares_are_shares(texts):
    together = measure(Batch(texts, ["en"] * len(texts), [None] * len(texts)))
    for index, text in enumerate(texts):
        alone = measure(Batch([text], ["en"], [None]))
        for name, column in together.items():
            np.testing.assert_equal(column[index], alone[name][0], err_msg=name)
    for name in ("duplicate_lines", "alphabetic_words", "punctuated_lines", "duplicate_5gram_characters"):
        share = together[name]
        assert (np.isnan(share) | ((share >= 0) & (share <= 1))).all()


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ("None", "gives a NoneType"),
        ("{}", r"gives the columns \[\]"),
        ("{'shape': 1.0}", r"shape is of shape \(\) and type float64 for 2 documents"),
        ("{'shape': [1.0]}", r"of shape \(1,\)"),
        ("{'shape': ['a', 'b']}", "and type <U1 for 2"),
        ("{'shape': [1j, 2j]}", "and type complex128"),
        ("{'shape': [[1, 2], [3, 4]]}", r"of shape \(2, 2\)"),
    ],
)
def test_a_measure_of_another_package_that_gives_no_numbers_is_said(compute, said, tmp_path, monkeypatch):
    name = f"measure_{abs(hash(compute))}"
    (tmp_path / f"{name}.py").write_text(
        "from pipeline.quality.measures import Measures\n"
        f"MINE = Measures(('shape',), lambda text, batch: {compute} if text.documents else {{'shape': []}})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=f"{name}:MINE.*{said}"):
        measure_texts(pa.array(["one", "two"], pa.large_string()), [None] * 2, [None] * 2, [f"{name}:MINE"])


def test_a_measure_of_another_package_may_give_a_list(tmp_path, monkeypatch):
    (tmp_path / "measure_by_list.py").write_text(
        "from pipeline.quality.measures import Measures\n"
        "MINE = Measures(('shape',), lambda text, batch: {'shape': [1.5, float('nan')]})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    table = measure_texts(pa.array(["one", "two"], pa.large_string()), [None] * 2, [None] * 2, ["measure_by_list:MINE"])
    assert table["shape"].to_pylist() == [1.5, None]


@pytest.mark.parametrize(
    ("bound", "threshold"), [("atleast", 3), (">=", 3), ("at_least", "3"), ("at_most", float("nan"))]
)
def test_a_rule_with_another_bound_is_refused_and_not_turned_round(bound, threshold):
    with pytest.raises(ValueError, match="a bound is at_least or at_most, a threshold a number"):
        Rule("mine", "words", bound, threshold)
