"""What the stage promises of any corpus: nothing is lost, every removal is true, and only the documents decide."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store.dataset import Dataset
from pipeline.dedup import STAGE, DedupConfig
from pipeline.dedup.urls import normalise_url
from pipeline.document import Document
from tests.pipeline.dedup.corpora import document, edited, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage

CONFIG = {"preset": "custom", "bands": 100, "rows": 3, "source_priority": ("wikipedia", "web")}
"""So many bands that practically every similar pair is nominated."""


def corpus(rng: random.Random, number: int) -> list[Document]:
    """Documents that repeat one another in every way, with equal and missing values in every criterion."""
    rows: list[Document] = []
    texts: list[list[str]] = [sentence_words(rng, rng.randrange(1, 120))]
    for i in range(number):
        words = rng.choice(texts)
        kind = rng.randrange(5)
        if kind == 0:
            words = sentence_words(rng, rng.randrange(1, 120))
        elif kind == 1:
            words = edited(rng, words, min(len(words), rng.randrange(1, 4)))
        elif kind == 2:
            words = words[: len(words) - rng.randrange(len(words))]
        texts.append(words)
        code = rng.choice([None, None, None, "C", "Python"])
        rows.append(
            document(
                f"d{i}",
                rng.choice([" ", "\n", "  \t"]).join(words),
                url=rng.choice([None, f"https://x.org/{rng.randrange(number)}", f"http://www.x.org/{i % 3}/#top"]),
                source=rng.choice(["web", "wikipedia", "forum"]),
                quality=rng.choice([None, 0.5, rng.random()]),
                date=rng.choice([None, "2020-01-01", f"20{rng.randrange(10, 24)}-02-03"]),
                programming_language=code,
            )
        )
    return rows


def run(folder: Path, documents: Sequence[Document], files: int, **more: Any) -> Dataset:
    layout = {f"web/{n}": list(documents[n::files]) for n in range(files) if documents[n::files]}
    config = DedupConfig(**{**CONFIG, **more})
    return run_shard_stage(STAGE, config, {"quality": publish(folder / "q", layout)}, folder / "d")


def fates(dataset: Dataset) -> dict[bytes, tuple[Any, ...]]:
    return {key: (row["rule"], row["survivor_id"], row["score"]) for key, row in ledger(dataset).items()}


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def true_similarity(one: Document, other: Document, measure: str) -> float:
    a, b = shingles(one["text"]), shingles(other["text"])
    return len(a & b) / (min(len(a), len(b)) if measure == "containment" else len(a | b))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    number=st.integers(1, 40),
    files=st.integers(1, 5),
    block=st.sampled_from([3, 1000]),
    measure=st.sampled_from(["jaccard", "containment"]),
)
def test_only_the_documents_decide_and_every_removal_is_true(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int, files: int, block: int, measure: str
) -> None:
    rng = random.Random(seed)
    rows = corpus(rng, number)
    folder = tmp_path_factory.mktemp("contract")
    dataset = run(folder / "1", rows, 2, measure=measure)
    found, stays = fates(dataset), kept(dataset)

    assert stays | set(found) == {row["id"] for row in rows}
    assert not stays & set(found)
    of = {row["id"]: row for row in rows}
    for key, (rule, survivor, score) in found.items():
        assert survivor in stays
        if rule == "near_duplicate":
            assert of[key].get("programming_language") == of[survivor].get("programming_language")
            assert score == pytest.approx(true_similarity(of[key], of[survivor], measure))
            assert score >= 0.8
        elif rule == "exact_duplicate":
            same = [row["id"] for row in rows if row["text"].split() == of[key]["text"].split()]
            assert len(same) > 1
        else:
            addresses = [normalise_url(row["url"]) for row in rows if row.get("url")]
            assert addresses.count(normalise_url(of[key]["url"] or "")) > 1

    rng.shuffle(rows)
    assert fates(run(folder / "2", rows, files, block_documents=block, memory_mb=128, measure=measure)) == found


def test_a_second_pass_finds_nothing(tmp_path: Path) -> None:
    """What stays holds no duplicates: neither by address, nor by text, nor near ones that are nominated."""
    rows = corpus(random.Random(8), 120)
    stays = kept(run(tmp_path / "1", rows, 3))
    left = [row for row in rows if row["id"] in stays]
    assert kept(run(tmp_path / "2", left, 2)) == stays


def test_a_cluster_of_thousands_of_copies_keeps_its_best(tmp_path: Path) -> None:
    """Half of them exact, half with a word changed, over more blocks than one unit handles."""
    rng = random.Random(3)
    words = sentence_words(rng, 100)
    rows = [
        document(f"c{i}", " ".join(words if i % 2 else edited(rng, words, 1)), quality=i / 3000) for i in range(3000)
    ]
    dataset = run(tmp_path, rows, 4, bands=14, rows=8, block_documents=500, memory_mb=128)
    best = max(rows, key=lambda row: row["quality"] or 0.0)
    assert best["id"] in kept(dataset)
    assert len(kept(dataset)) <= 30, "a changed word in the middle costs 10 of some 106 shingles: most pairs reach 0.8"
    pairs = dataset.manifest.stats["verification"]["pairs"]
    assert pairs < 20 * 3000


def test_the_ledger_names_the_level_that_removed_a_document(tmp_path: Path) -> None:
    rng = random.Random(4)
    words = sentence_words(rng, 200)
    rows = [
        document("best", " ".join(words), quality=0.9, url="https://a.org/1"),
        document("address", " ".join([*words[:100], *sentence_words(rng, 50)]), quality=0.1, url="https://a.org/1/"),
        document("text", "\n".join(words), quality=0.2, url="https://a.org/2"),
        document("near", " ".join(edited(rng, words, 1)), quality=0.3, url="https://a.org/3"),
    ]
    table = pq.read_table(run(tmp_path, rows, 1).local("ledger/web/0.parquet"))
    assert table["rule"].to_pylist() == ["url_duplicate", "exact_duplicate", "near_duplicate"]
    assert table["threshold"].to_pylist() == [0.5, None, 0.8]
    assert set(table["survivor_id"].to_pylist()) == {rows[0]["id"]}
