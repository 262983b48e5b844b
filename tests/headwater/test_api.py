"""``headwater`` from Python: tables of every kind go in, the same kind comes out, and nothing is imported too early."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import headwater
from infra.errors import ConfigError, InputError
from tests.pipeline.dedup.corpora import edited, sentence_words
from tests.support import REPOSITORY

PAGE = """<html><head><title>The mill</title><meta name="author" content="A. Miller"></head><body>
<nav><a href="/">Home</a> <a href="/a">About</a></nav>
<article><h1>The mill</h1><p>The old mill stands by the river and grinds the corn of four villages, as it has done
for two hundred years.</p><p>Its wheel turns slowly in summer, when the water is low, and the miller waits for rain.</p>
</article></body></html>"""


def test_importing_headwater_imports_nothing_else() -> None:
    code = (
        "import sys; import headwater; dir(headwater); "
        "print(*{'torch', 'prefect', 'numba', 'pyarrow', 'pydantic', 'flows', 'pipeline', 'infra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_name_is_there_and_others_are_not() -> None:
    assert all(getattr(headwater, name) is not None for name in dir(headwater))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = headwater.nonsense


@pytest.mark.parametrize("html", [PAGE, PAGE.encode("utf-16")])
def test_extract(html: str | bytes) -> None:
    page = headwater.extract(html, "https://mill.org/")
    assert page.text.startswith("The mill\nThe old mill stands") or page.text.startswith("The old mill stands")
    assert "About" not in page.text
    assert (page.title, page.metadata.author) == ("The mill", "A. Miller")


def test_a_page_without_text_is_refused_with_the_rule() -> None:
    with pytest.raises(headwater.Refused) as refused:
        headwater.extract("<html><body><script>x</script></body></html>")
    assert (refused.value.verdict, refused.value.rule) == ("dropped", "no_text")


def test_an_unknown_option_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"no option 'extractr'. Did you mean 'extractor'. Options: extractor, mode"):
        headwater.extract(PAGE, extractr="resiliparse")


TEXTS = ["Two words.", "The cat sat on the mat.\nThe cat sat on the mat.", ""]


@pytest.mark.parametrize(
    "data",
    [
        TEXTS,
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pd.Series(TEXTS),
        pl.Series(TEXTS),
        pa.table({"text": TEXTS}),
        pa.record_batch({"text": pa.array(TEXTS)}),
        pd.DataFrame({"text": TEXTS}),
        pl.DataFrame({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
    ],
    ids=lambda data: f"{type(data).__module__.split('.')[0]}.{type(data).__name__}",
)
def test_measure_reads_every_kind_of_table(data: Any) -> None:
    table = headwater.measure(data, language="en")
    assert table["words"].to_pylist() == [2, 12, 0]
    assert table["duplicate_lines"].to_pylist()[:2] == [0.0, 0.5]
    assert table["stop_words"].to_pylist() == [0, 1, 0]


def test_measure_takes_languages_from_their_column() -> None:
    table = headwater.measure(pa.table({"text": TEXTS, "language": ["en", None, "en"]}))
    assert [value is None for value in table["stop_words"].to_pylist()] == [False, True, False]


def test_what_is_no_table_and_a_missing_column_are_told() -> None:
    with pytest.raises(InputError, match="dict is not a table"):
        headwater.dedup({"text": TEXTS})
    with pytest.raises(InputError, match="no column 'text'.*there are body"):
        headwater.dedup(pa.table({"body": TEXTS}))
    with pytest.raises(InputError, match="row 1 has no text"):
        headwater.dedup(pa.table({"text": ["a", None]}))


def test_half_a_surrogate_pair_is_told_with_its_row() -> None:
    with pytest.raises(InputError, match="text 2 holds half a surrogate pair"):
        headwater.measure(["one", "two", "\ud800 three"])


def corpus() -> dict[str, list[Any]]:
    """Rows 0 and 3 are near duplicates, 1 and 4 the same text, 2 and 5 one address; 6 is alone."""
    rng = random.Random(5)
    texts = [sentence_words(rng, 80) for _ in range(4)]
    rows = [*texts[:3], edited(rng, texts[0], 1), texts[1], texts[2][:70], texts[3]]
    urls = [None, None, "https://x.org/a", None, None, "http://www.x.org/a/", None]
    return {"number": list(range(7)), "text": [" ".join(words) for words in rows], "url": urls}


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (pa.table, lambda table: table["number"].to_pylist()),
        (pd.DataFrame, lambda frame: frame["number"].tolist()),
        (pl.DataFrame, lambda frame: frame["number"].to_list()),
        (datasets.Dataset.from_dict, lambda dataset: dataset["number"][:]),
    ],
    ids=["pyarrow", "pandas", "polars", "datasets"],
)
def test_dedup_returns_what_came_in_and_the_fate_of_every_other_row(kind: Any, numbers: Any) -> None:
    data = kind(corpus())
    result = headwater.dedup(data)
    assert type(result.kept) is type(data)
    assert list(numbers(result.kept)) == [1, 2, 3, 6], "the longer of two near duplicates, the earlier of two equals"
    fates = {row["row"]: (row["rule"], row["survivor"]) for row in result.dropped.to_pylist()}
    assert fates == {0: ("near_duplicate", 3), 4: ("exact_duplicate", 1), 5: ("url_duplicate", 2)}


def test_dedup_takes_the_options_of_the_stage() -> None:
    table = pa.table(corpus()).append_column("quality", pa.array([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    result = headwater.dedup(table, url=False)
    assert result.kept["number"].to_pylist() == [0, 1, 2, 6], "the better one, before the longer one"
    assert headwater.dedup(table, near=False).kept["number"].to_pylist() == [0, 1, 2, 3, 6]
    assert headwater.dedup(table.slice(0, 0)).kept.num_rows == 0
    with pytest.raises(ConfigError, match="repeats and previous"):
        headwater.dedup(table, repeats="line")


def test_a_tokenizer_is_trained_saved_and_opened(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["mill", "river", "corn", "wheel", "miller", "water", "rain", "summer", "village"]
    texts = [" ".join(rng.choice(words) + rng.choice("abcdefg") for _ in range(50)) for _ in range(100)]
    tokenizer = headwater.train_tokenizer(pl.DataFrame({"text": texts}), vocab_size=400)
    assert tokenizer.vocab_size == 400
    assert headwater.train_tokenizer(iter(texts), vocab_size=400).digest == tokenizer.digest
    tokenizer.save(tmp_path / "mine")
    again = headwater.tokenizer(str(tmp_path / "mine"))
    assert again.digest == tokenizer.digest
    assert again.decode(again.encode("Größe ▁ 42")) == "Größe ▁ 42"
    assert (tmp_path / "mine" / "tokenizer.json").exists()
