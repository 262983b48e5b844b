"""Quality measures of Gopher (Rae et al. 2021, appendix A.1.1)."""

import numpy as np

from pipeline.kernels import kernel
from pipeline.quality.stopwords import stop_word_table
from pipeline.quality.text import Floats, Ints, TextView, ratio

BULLETS = "•-*‣▪●◦·–"
NO_LIST = 255


def gopher(text: TextView, languages: list[str | None]) -> dict[str, Floats | Ints]:
    """Every measure of the paper's quality filter, by attribute name."""
    return {
        "words": text.estimated_words,
        "mean_word_length": mean_word_length(text),
        "hash_sign_ratio": ratio(text.hash_signs, text.estimated_words),
        "ellipsis_ratio": ratio(text.ellipses, text.estimated_words),
        "bullet_lines": bullet_lines(text),
        "ellipsis_lines": ratio(text.sum_lines(text.line_ellipsis), text.lines),
        "alphabetic_words": alphabetic_words(text),
        "stop_words": stop_words(text, languages),
    }


def mean_word_length(text: TextView) -> Floats:
    """Mean characters of the words of spaced scripts.

    The paper's bounds (3 to 10) are those of alphabets. Undefined where most words are of unspaced scripts, and where a
    character is a syllable or its vowel counts as another: words have 3 characters in Korean, 10 in Tamil, 12 in Malayalam.
    """
    spaced = ~text.word_unspaced
    mean = ratio(text.sum_words(np.where(spaced, text.word_length, 0)), text.sum_words(spaced))
    letters = text.sum_lines(text.line_letters)
    return np.where((2 * text.unspaced_words > text.words) | (2 * text.syllabic_letters > letters), np.nan, mean)


def bullet_lines(text: TextView) -> Floats:
    """Share of lines that begin with a bullet."""
    bullets = np.array([ord(bullet) for bullet in BULLETS], np.uint32)
    return ratio(text.sum_lines(np.isin(text.line_first, bullets)), text.lines)


def alphabetic_words(text: TextView) -> Floats:
    """Share of tokens (those of symbols alone included) with at least one letter."""
    return ratio(text.sum_words(text.word_has_letter), text.tokens)


def stop_words(text: TextView, languages: list[str | None]) -> Floats:
    """How many different words of its language's stop list a document has; undefined for languages without a list."""
    names, table = stop_word_table()
    index = np.array([names.get(language or "", NO_LIST) for language in languages], np.uint8)
    found = _distinct(text.word_hash, text.words_of, table, index).astype(np.float64)
    return np.where(index == NO_LIST, np.nan, found)


@kernel
def _distinct(hashes, starts, table, index):  # type: ignore[no-untyped-def]
    documents = len(starts) - 1
    listed = table.shape[1]
    counts = np.zeros(documents, np.int64)
    seen = np.zeros(listed, np.bool_)
    for document in range(documents):
        language = index[document]
        if language == 255:
            continue
        seen[:] = False
        for word in range(starts[document], starts[document + 1]):
            for entry in range(listed):
                if hashes[word] == table[language, entry]:
                    if not seen[entry]:
                        seen[entry] = True
                        counts[document] += 1
                    break
            if counts[document] == listed:
                break
    return counts
