"""The stop lists are of the kind of the paper's: eight different words a language, more where they are endings."""

from pipeline.quality.stopwords import STOP_WORDS, stop_word_table


def test_eight_different_words_a_language():
    for language, words in STOP_WORDS.items():
        assert 8 <= len(set(words.split())) == len(words.split()) <= 18, language
    assert STOP_WORDS["en"].split() == ["the", "be", "to", "of", "and", "that", "have", "with"]


def test_the_table_has_a_row_a_language():
    rows, table = stop_word_table()
    assert (table > 0).sum(axis=1).tolist() == [len(words.split()) for words in STOP_WORDS.values()]
    assert list(rows) == list(STOP_WORDS)
