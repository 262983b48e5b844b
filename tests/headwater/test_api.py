"""``headwater`` from Python: tables of every kind go in, the same kind comes out, and nothing is imported too early."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import headwater
from infra.errors import ConfigError, HeadwaterError, InputError
from tests.pipeline.dedup.corpora import edited, sentence_words
from tests.support import REPOSITORY

PAGE = """<html><head><title>The mill</title><meta name="author" content="A. Miller"></head><body>
<nav><a href="/">Home</a> <a href="/a">About</a></nav>
<article><h1>The mill</h1><p>The old mill stands by the river and grinds the corn of four villages, as it has done
for two hundred years.</p><p>Its wheel turns slowly in summer, when the water is low, and the miller waits for rain.</p>
</article></body></html>"""


def test_importing_headwater_imports_nothing_else() -> None:
    code = (
        "import sys; import headwater; dir(headwater)\n"
        "rooms = ('flows.', 'pipeline.', 'infra.', 'training.', 'alignment.')\n"
        "print(*{'torch', 'prefect', 'numba', 'pyarrow', 'pydantic'} & set(sys.modules), "
        "*[name for name in sys.modules if name.startswith(rooms)])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


ROOMS = ("infra", "pipeline", "training", "alignment", "flows")


def test_files_beside_a_script_that_bear_our_names_are_not_in_the_way(tmp_path: Path) -> None:
    for name in ROOMS:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    script = tmp_path / "mine.py"
    script.write_text("import headwater\nprint(list(headwater.open_store('none')), headwater.Tokenizer.__name__)\n")
    for words in ([str(script)], ["-m", "headwater", "--version"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=with_headwater(), capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.split()[:1]) in ((0, ["[]"]), (0, ["headwater"])), done.stderr


def test_a_file_that_was_imported_under_one_of_our_names_is_named(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import pipeline, headwater"],
        cwd=tmp_path,
        env=with_headwater(),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path}/pipeline.py is called as")


def with_headwater() -> dict[str, str]:
    """An environment in which another folder's scripts import this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return environment | {"PYTHONPATH": str(REPOSITORY)}


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


TEXT = "The miller went to the river, and the wheel of the mill turned all day long."


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"text": [TEXT, None, TEXT, float("nan")]}, index=["a", "a", "b", "c"]),
        pl.DataFrame({"text": [TEXT, None, TEXT, None]}),
        pl.DataFrame({"text": pl.Series([TEXT, None, TEXT, None], dtype=pl.Categorical)}),
        pa.table({"text": pa.array([TEXT, None, TEXT, None], pa.string_view())}),
        pa.table({"text": pa.array([TEXT, None, TEXT, None]).dictionary_encode()}),
        pa.table({"text": pc.run_end_encode(pa.array([TEXT, None, TEXT, None]))}),
        datasets.Dataset.from_dict({"text": [TEXT, None, TEXT, None]}),
    ],
    ids=["pandas", "polars", "categorical", "views", "dictionary", "runs", "datasets"],
)
def test_a_row_without_text_costs_that_row_however_texts_are_stored(data: Any) -> None:
    result = headwater.dedup(data)
    assert len(result.kept) == 1
    fates = [(row["row"], row["rule"], row["survivor"]) for row in result.dropped.to_pylist()]
    assert fates == [(1, "no_text", None), (2, "exact_duplicate", 0), (3, "no_text", None)]


def test_a_table_without_any_text_is_all_dropped() -> None:
    result = headwater.dedup(pa.table({"text": pa.nulls(2)}))
    assert (result.kept.num_rows, result.dropped["rule"].to_pylist()) == (0, ["no_text", "no_text"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: headwater.extract(None), "a page is text or bytes, not a NoneType"),  # type: ignore[arg-type]
        (lambda: headwater.dedup(pl.LazyFrame({"text": TEXTS})), r"LazyFrame is not a table.*frame\.collect\(\)"),
        (
            lambda: headwater.dedup(datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": TEXTS}))),
            "its splits",
        ),
        (
            lambda: headwater.dedup(datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()),
            "IterableDataset is a s",
        ),
        (
            lambda: headwater.dedup(pd.concat([pd.DataFrame({"text": TEXTS})] * 2, axis=1)),
            "cannot be read as Arrow: Duplicate",
        ),
        (lambda: headwater.dedup(pd.DataFrame({"text": pd.Series(["a", 5], dtype=object)})), "cannot be read as Arrow"),
        (lambda: headwater.dedup(pa.table({"text": TEXTS}), treshold=0.5), "Did you mean 'threshold'"),
        (lambda: headwater.dedup(pa.table({"text": TEXTS}), survivor="quality"), "survivor: it should be a list"),
        (lambda: headwater.measure(["a", 5]), "text 1 is of type int"),
        (lambda: headwater.measure([math.nan, np.array([1, 2])]), "text 1 is of type ndarray"),
        (lambda: headwater.measure([pd.NA, object()]), "text 1 is of type object"),
        (lambda: headwater.train_tokenizer("one text"), "a str is not a list of texts"),
        (lambda: headwater.train_tokenizer({"text": TEXTS}), "a dict is not a list of texts"),
        (lambda: headwater.train_tokenizer(iter([TEXT, {"text": TEXT}]), vocab_size=400), "text 1 is of type dict"),
        (lambda: headwater.train_tokenizer([TEXT, "\ud800"], vocab_size=400), "half a surrogate pair"),
        (
            lambda: headwater.train_tokenizer(["a" * 1000], vocab_size=512),
            "too small.*512.*Give the tokenizer more text",
        ),
        (lambda: headwater.tokenizer(__file__), "there is no tokenizer"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(HeadwaterError, match=said):
        call()


def test_lists_may_lack_texts_and_be_numpy_s() -> None:
    assert headwater.measure([TEXTS[0], None, float("nan")])["words"].to_pylist() == [2, 0, 0]
    assert headwater.measure(np.array(TEXTS[:2]))["words"].to_pylist() == [2, 12]


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
    for wrong in (-100, 400):
        with pytest.raises(InputError, match=f"{wrong} is no id of this tokenizer. Its ids are 0 to 399"):
            tokenizer.decode([1, wrong])
