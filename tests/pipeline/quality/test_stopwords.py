"""The stop lists are of the kind of the paper's: eight different words a language."""

from pipeline.quality.stopwords import STOP_WORDS, stop_word_table


def test_eight_different_words_a_language():
    for language, words in STOP_WORDS.items():
        assert len(set(words.split())) == 8, language
    assert STOP_WORDS["en"].split() == ["the", "be", "to", "of", "and", "that", "have", "with"]


def test_the_table_has_a_row_a_language():
    rows, table = stop_word_table()
    assert table.shape == (len(STOP_WORDS), 8)
    assert list(rows) == list(STOP_WORDS)
