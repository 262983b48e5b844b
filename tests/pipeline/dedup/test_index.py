"""The index of earlier runs: compared with, refused, and taken out again."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, InputError
from infra.store.dataset import Dataset
from pipeline.dedup import STAGE, DedupConfig
from pipeline.document import Document
from tests.pipeline.dedup.corpora import document, edited, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage


def run(folder: Path, documents: list[Document], *previous: Dataset, **settings: Any) -> Dataset:
    inputs = {"quality": publish(folder / "q", {"web/a": documents})}
    config = DedupConfig(previous=tuple(dataset.root for dataset in previous), **settings)
    return run_shard_stage(STAGE, config, inputs, folder / "d")


@pytest.fixture
def texts() -> list[list[str]]:
    rng = random.Random(1)
    return [sentence_words(rng, 150) for _ in range(12)]


def rows(name: str, texts: list[list[str]], **columns: Any) -> list[Document]:
    return [document(f"{name}{i}", " ".join(words), **columns) for i, words in enumerate(texts)]


def test_a_snapshot_left_out_no_longer_costs_any_document(tmp_path: Path, texts: list[list[str]]) -> None:
    """Three crawls; the third repeats pages of both before it. Without the first, its pages are kept again."""
    first = run(tmp_path / "1", rows("first", texts[:4]))
    second = run(tmp_path / "2", rows("second", texts[4:8]), first)
    third = rows("third", [*texts[:2], *texts[4:6], *texts[8:]])
    both = run(tmp_path / "3", third, first, second)
    assert kept(both) == {row["id"] for row in third[4:]}
    named = [fate["detail"].split(" in ")[1].split(",")[0] for fate in ledger(both).values()]
    assert sorted(named) == sorted(2 * [f"dedup/{d.manifest.fingerprint}" for d in (first, second)])
    without = run(tmp_path / "4", third, second)
    assert kept(without) == {row["id"] for row in [*third[:2], *third[4:]]}
    assert kept(run(tmp_path / "5", third)) == {row["id"] for row in third}
    assert kept(run(tmp_path / "6", third, first, second, scope="within")) == {row["id"] for row in third}


def test_what_an_earlier_run_kept_stays_whatever_its_rank(tmp_path: Path, texts: list[list[str]]) -> None:
    rng = random.Random(2)
    half = texts[0][: len(texts[0]) * 2 // 3]
    old = [document("old", " ".join(texts[0]), quality=0.1, url="https://a.org/1", source="web")]
    first = run(tmp_path / "1", old)
    new = [
        document("copy", "\n".join(texts[0]), quality=0.9, source="wikipedia"),
        document("near", " ".join(edited(rng, texts[0], 1)), quality=0.9),
        document("address", " ".join([*half, *texts[1][: len(half)]]), quality=0.9, url="http://www.a.org/1/"),
        document("other", " ".join(texts[2])),
    ]
    second = run(tmp_path / "2", new, first, source_priority=("wikipedia",))
    assert kept(second) == {new[3]["id"]}
    rules = {row["id"]: ledger(second)[row["id"]]["rule"] for row in new[:3]}
    assert list(rules.values()) == ["exact_duplicate", "near_duplicate", "url_duplicate"]


def test_new_documents_that_resemble_each_other_are_compared_beside_an_old_one(
    tmp_path: Path, texts: list[list[str]]
) -> None:
    """An old document in the middle of a group must not hide that two new ones are duplicates of each other."""
    rng = random.Random(5)
    base = sentence_words(rng, 400)
    old = edited(rng, base, 6)
    one = edited(rng, base, 7)
    other = [*one[:399], "end"]
    first = run(tmp_path / "1", rows("old", [old]), bands=60, rows=2, preset="custom")
    second = run(tmp_path / "2", rows("new", [one, other]), first, bands=60, rows=2, preset="custom")
    assert len(kept(second)) == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ngram": 4}, "ngram is 5 there and 4 here"),
        ({"preset": "20x13"}, "permutations is 112 there and 260 here"),
        ({"seed": 2}, "seed is 1 there and 2 here"),
        ({"max_characters": 1000}, "max_characters is 500000 there and 1000 here"),
        ({"per_language_code": False}, "per_language_code is True there and False here"),
    ],
)
def test_an_index_of_other_parameters_is_refused_by_name(
    tmp_path: Path, texts: list[list[str]], settings: dict[str, Any], named: str
) -> None:
    first = run(tmp_path / "1", rows("a", texts[:2]))
    with pytest.raises(ConfigError, match=named):
        run(tmp_path / "2", rows("b", texts[2:4]), first, **settings)


def test_bands_may_be_cut_differently_from_the_same_signatures(tmp_path: Path, texts: list[list[str]]) -> None:
    first = run(tmp_path / "1", rows("a", texts[:2]))
    second = run(tmp_path / "2", rows("b", [texts[0], texts[5]]), first, preset="custom", bands=28, rows=4)
    assert len(kept(second)) == 1


def test_an_index_of_another_format_and_a_dataset_without_one_are_refused(
    tmp_path: Path, texts: list[list[str]]
) -> None:
    first = run(tmp_path / "1", rows("a", texts[:2]))
    path = first.local("index/format.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(InputError, match="has format 99; this version reads 2"):
        run(tmp_path / "2", rows("b", texts[2:4]), first)
    bare = run(tmp_path / "3", rows("a", texts[:2]), index=False)
    with pytest.raises(InputError, match="has no dedup index"):
        run(tmp_path / "4", rows("b", texts[2:4]), bare)
    good = run(tmp_path / "5", rows("a", texts[:2]))
    with pytest.raises(ConfigError, match="named twice"):
        run(tmp_path / "6", rows("b", texts[2:4]), good, good)
