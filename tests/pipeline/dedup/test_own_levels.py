"""Levels of other packages: documents that share a key of the package's own."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import ConfigError
from infra.fingerprint import fingerprint_payload
from infra.store.dataset import Dataset
from pipeline.dedup import STAGE, DedupConfig
from pipeline.dedup.own import Level
from pipeline.document import Document
from tests.pipeline.dedup.corpora import document, edited, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage


def titles(batch: pa.RecordBatch) -> list[str | None]:
    return [title.casefold() if title else None for title in batch["title"].to_pylist()]


TITLE = Level("title", titles)
ALIKE = Level("alike_title", titles, threshold=0.3)
UNTITLED = Level("untitled", lambda batch: [None] * batch.num_rows)
NEAR = Level("near", titles)
SHORT = Level("short", lambda batch: ["x"])
NUMBERS = Level("numbers", lambda batch: [1] * batch.num_rows)  # type: ignore[list-item]
HERE = f"{__name__}:"


@pytest.fixture(scope="module")
def works() -> dict[str, list[Document]]:
    """Pairs of one title: an edition of the same words, one of a third of them, and another work altogether."""
    rng, files = random.Random(5), {"a": [], "b": [], "c": []}  # type: ignore[var-annotated]
    for number in range(20):
        words = sentence_words(rng, 120)
        third = [*words[:60], *sentence_words(rng, 80)]
        files["a"].append(document(f"first{number}", " ".join(words), title=f"Work {number}", quality=0.9))
        files["b"].append(document(f"near{number}", " ".join(edited(rng, words, 1)), title=None, quality=0.8))
        files["b"].append(document(f"third{number}", " ".join(third), title=f"WORK {number}", quality=0.7))
        files["c"].append(
            document(f"other{number}", " ".join(sentence_words(rng, 90)), title=f"Work {number}", quality=0.6)
        )
        files["c"].append(document(f"copy{number}", " ".join(third), title=None, quality=0.5))
    return files


def run(folder: Path, files: dict[str, list[Document]], **settings: object) -> Dataset:
    inputs = {"quality": publish(folder / "quality", files)}
    return run_shard_stage(STAGE, DedupConfig(survivor=("quality",), **settings), inputs, folder / "dedup")  # type: ignore[arg-type]


def fates(dataset: Dataset, files: dict[str, list[Document]]) -> dict[str, tuple[str, str]]:
    """Name -> rule and survivor's name."""
    names = {row["id"]: row["origin"]["record_id"] for rows in files.values() for row in rows}
    return {names[key]: (row["rule"], names[row["survivor_id"]]) for key, row in ledger(dataset).items()}


@pytest.mark.parametrize("block", [7, 65_536])
def test_the_survivor_has_the_key_and_followers_pass_to_it(
    tmp_path: Path, works: dict[str, list[Document]], block: int
) -> None:
    dataset = run(tmp_path, works, levels=(f"{HERE}TITLE",), block_documents=block)
    found = fates(dataset, works)
    for number in range(20):
        assert found[f"near{number}"] == ("near_duplicate", f"first{number}")
        assert found[f"third{number}"] == found[f"other{number}"] == ("title_duplicate", f"first{number}")
        assert found[f"copy{number}"] == ("exact_duplicate", f"first{number}")
    assert len(kept(dataset)) == 20
    row = next(row for row in ledger(dataset).values() if row["rule"] == "title_duplicate")
    assert row["threshold"] == 0.0 and row["detail"].startswith("the survivor has the same title; it is in")


def test_a_threshold_asks_for_likeness_besides(tmp_path: Path, works: dict[str, list[Document]]) -> None:
    found = fates(run(tmp_path, works, levels=(f"{HERE}ALIKE",)), works)
    assert found["third3"] == ("alike_title_duplicate", "first3") and "other3" not in found


def test_alone_it_finds_what_has_its_key_and_nothing_else(tmp_path: Path, works: dict[str, list[Document]]) -> None:
    dataset = run(tmp_path, works, levels=(f"{HERE}TITLE",), url=False, exact=False, near=False)
    assert {rule for rule, _ in fates(dataset, works).values()} == {"title_duplicate"}
    assert len(kept(dataset)) == 60


def test_the_kept_documents_of_an_earlier_run_are_met_by_their_keys(
    tmp_path: Path, works: dict[str, list[Document]]
) -> None:
    """Of a level in another place there; in blocks of 7 through the steps of a large corpus too."""
    poor, rich = document("poor", "a b", title="Poor", quality=0.1), document("rich", "c d", title="poor", quality=0.2)
    old = {"a": works["a"], "z": [poor, rich]}
    first = run(tmp_path / "1", old, levels=(f"{HERE}UNTITLED", f"{HERE}TITLE"), near=False)
    assert fates(first, old) == {"poor": ("title_duplicate", "rich")}
    new = {"b": [*works["b"], document("back", "e f", title="POOR", quality=0.9)], "c": works["c"]}
    for block in (7, 65_536):
        second = run(
            tmp_path / str(block), new, levels=(f"{HERE}TITLE",), previous=(first.root,), block_documents=block
        )
        found = fates(second, {**old, **new})
        for number in range(20):
            assert found[f"near{number}"] == ("near_duplicate", f"first{number}")
            assert found[f"third{number}"] == found[f"other{number}"] == ("title_duplicate", f"first{number}")
        assert found["back"] == ("title_duplicate", "rich") and not second.manifest.warnings


def test_an_index_without_a_level_is_warned_of_and_one_by_other_code_is_refused(
    tmp_path: Path, works: dict[str, list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"levels": (f"{HERE}TITLE",), "near": False}
    bare = run(tmp_path / "1", {"a": works["a"]}, near=False)
    second = run(tmp_path / "2", {"c": works["c"]}, previous=(bare.root,), **settings)
    assert len(kept(second)) == len(works["c"])
    assert second.manifest.warnings == [
        f"the documents of dedup/{bare.manifest.fingerprint} take no part in the level {HERE}TITLE: that run did not have it"
    ]
    first = run(tmp_path / "3", {"a": works["a"]}, **settings)
    monkeypatch.setattr("pipeline.dedup.own.code_digest", lambda reference: "edited")
    with pytest.raises(ConfigError, match="keys by other code of the level"):
        run(tmp_path / "4", {"c": works["c"]}, previous=(first.root,), **settings)


def test_its_code_is_in_the_fingerprint_and_its_absence_is_not(works: dict[str, list[Document]]) -> None:
    assert list(fingerprint_payload(STAGE, DedupConfig(levels=(f"{HERE}TITLE",)), {})["code"]) == [f"{HERE}TITLE"]  # type: ignore[arg-type]
    assert "levels" not in fingerprint_payload(STAGE, DedupConfig(), {})["config"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        ([f"{HERE}NEAR"], "two levels are called 'near'"),
        ([f"{HERE}TITLE", f"{HERE}TITLE"], "two levels are called 'title'"),
        ([f"{HERE}titles"], "is a function, and levels takes a Level"),
        ([f"{HERE}TITEL"], "Did you mean 'TITLE'"),
        (["title"], "is no dotted path"),
    ],
)
def test_what_is_no_level_is_one_sentence(levels: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        STAGE.check(DedupConfig(levels=tuple(levels)))
    assert sentence in str(error.value)


@pytest.mark.parametrize(("name", "sentence"), [("SHORT", "gives 1 keys for"), ("NUMBERS", "neither text nor bytes")])
def test_keys_that_are_none_end_the_run_with_a_sentence(
    tmp_path: Path, works: dict[str, list[Document]], name: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run(tmp_path, works, levels=(f"{HERE}{name}",))
