"""The stage as a whole: what is dropped, for whom, and that nothing but the documents decides it."""

import random
from pathlib import Path

import pytest

from infra.store.dataset import Dataset
from pipeline.dedup import STAGE, DedupConfig
from pipeline.document import Document
from tests.pipeline.dedup.corpora import document, edited, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage


def run(folder: Path, files: dict[str, list[Document]], reverse: bool = False, **settings: object) -> Dataset:
    inputs = {"quality": publish(folder / "quality", files)}
    return run_shard_stage(STAGE, DedupConfig(**settings), inputs, folder / "dedup", reverse=reverse)  # type: ignore[arg-type]


def rules(dataset: Dataset) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in ledger(dataset).values():
        found[row["rule"]] = found.get(row["rule"], 0) + 1
    return found


@pytest.fixture(scope="module")
def mixed() -> dict[str, list[Document]]:
    """Originals with copies, near copies and same addresses, scattered over three files."""
    rng = random.Random(3)
    files: dict[str, list[Document]] = {"web/a": [], "web/b": [], "wikipedia/c": []}
    names = sorted(files)
    for i in range(300):
        words = sentence_words(rng, rng.randrange(60, 300))
        files[names[i % 3]].append(document(f"o{i}", " ".join(words), url=f"https://x.org/{i}", quality=0.5))
        if i % 5 == 0:
            files[names[(i + 1) % 3]].append(document(f"exact{i}", "  \n".join(words), quality=0.4))
        if i % 4 == 0:
            near = " ".join(edited(rng, words, 1))
            files[names[(i + 2) % 3]].append(document(f"near{i}", near, quality=0.6))
        if i % 10 == 0:
            other = " ".join([*words[: len(words) * 2 // 3], *sentence_words(rng, 80)])
            files[names[i % 3]].append(
                document(f"url{i}", other, url=f"http://www.x.org/{i}/?utm_source=t", quality=0.1)
            )
    return files


def test_each_kind_of_duplicate_is_dropped_for_the_better_document(
    tmp_path: Path, mixed: dict[str, list[Document]]
) -> None:
    dataset = run(tmp_path, mixed)
    fates, stays = ledger(dataset), kept(dataset)
    ids = {row["origin"]["record_id"]: row["id"] for rows in mixed.values() for row in rows}
    assert rules(dataset)["exact_duplicate"] == 60
    assert rules(dataset)["url_duplicate"] == 30
    for name, identity in ids.items():
        if name.startswith("exact"):
            assert fates[identity]["rule"] == "exact_duplicate"
        if name.startswith("url"):
            assert fates[identity]["rule"] == "url_duplicate"
            assert 0.5 <= fates[identity]["score"] < 0.8
        if name.startswith("near") and identity not in stays:
            pytest.fail("the document of higher quality was dropped")
    near = [row for row in fates.values() if row["rule"] == "near_duplicate"]
    assert len(near) >= 60
    assert all(row["score"] >= row["threshold"] for row in near)


def test_every_survivor_is_kept_and_every_document_accounted_for(
    tmp_path: Path, mixed: dict[str, list[Document]]
) -> None:
    dataset = run(tmp_path, mixed)
    fates, stays = ledger(dataset), kept(dataset)
    assert {row["survivor_id"] for row in fates.values()} <= stays
    assert not stays & set(fates)
    assert len(stays) + len(fates) == sum(map(len, mixed.values()))


def test_order_of_work_and_memory_do_not_change_a_byte(tmp_path: Path, mixed: dict[str, list[Document]]) -> None:
    first = run(tmp_path / "1", mixed)
    second = run(tmp_path / "2", mixed, reverse=True, memory_mb=128)
    assert first.digest == second.digest
    index = [(file.path, file.digest) for file in first.files("index/")]
    assert index
    assert index == [(file.path, file.digest) for file in second.files("index/")]


@pytest.mark.parametrize("block_documents", [40, 150])
def test_the_cut_into_blocks_does_not_change_a_byte(
    tmp_path: Path, mixed: dict[str, list[Document]], block_documents: int
) -> None:
    """One block goes through the steps in one unit; many blocks settle who stays by telling each other."""
    whole = run(tmp_path / "1", mixed)
    cut = run(tmp_path / "2", mixed, block_documents=block_documents, reverse=True)
    assert [(f.path, f.digest) for f in whole.files("")] == [(f.path, f.digest) for f in cut.files("")]
    assert cut.manifest.stats["verification"] == whole.manifest.stats["verification"]


def test_where_a_document_is_filed_does_not_decide_its_fate(tmp_path: Path, mixed: dict[str, list[Document]]) -> None:
    every = [row for name in sorted(mixed) for row in mixed[name]]
    random.Random(1).shuffle(every)
    spread = {"web/z": every[:50], "web/y": every[50:]}
    assert kept(run(tmp_path / "1", mixed)) == kept(run(tmp_path / "2", spread))


def test_clusters_are_stars_not_chains(tmp_path: Path) -> None:
    rng = random.Random(5)
    a = sentence_words(rng, 400)
    b = edited(rng, a, 6)
    c = edited(rng, b, 7)
    rows = [
        document(name, " ".join(words), quality=q) for name, words, q in (("a", a, 0.9), ("b", b, 0.8), ("c", c, 0.7))
    ]
    dataset = run(tmp_path, {"web/a": rows}, url=False, bands=60, rows=2, preset="custom")
    assert kept(dataset) == {rows[0]["id"], rows[2]["id"]}, "c resembles only b, and b is gone"
    assert ledger(dataset)[rows[1]["id"]]["survivor_id"] == rows[0]["id"]


def test_followers_name_a_document_that_stays(tmp_path: Path) -> None:
    """x has y's address, y has z's text, z is nearly w: all three name w."""
    rng = random.Random(7)
    w = sentence_words(rng, 300)
    z = edited(rng, w, 1)
    rows = [
        document("w", " ".join(w), quality=0.9),
        document("z", " ".join(z), quality=0.8),
        document("y", "\n".join(z), quality=0.7, url="https://a.org/p"),
        document("x", " ".join(z[:200]), quality=0.6, url="https://a.org/p#top"),
    ]
    dataset = run(tmp_path, {"web/a": rows})
    fates = ledger(dataset)
    assert kept(dataset) == {rows[0]["id"]}
    assert [fates[row["id"]]["rule"] for row in rows[1:]] == ["near_duplicate", "exact_duplicate", "url_duplicate"]
    assert {fate["survivor_id"] for fate in fates.values()} == {rows[0]["id"]}
    assert fates[rows[2]["id"]]["score"] == fates[rows[1]["id"]]["score"]


def test_an_address_alone_does_not_make_a_duplicate(tmp_path: Path) -> None:
    """Of a, b and their later states under one address the better state of each stays; a route is an address of its own."""
    rng = random.Random(21)
    a, b, c = (sentence_words(rng, 120) for _ in range(3))
    rows = [
        document("a", " ".join(a), quality=0.9, url="https://a.org/"),
        document("b", " ".join(b), quality=0.8, url="http://www.a.org/?utm_source=x"),
        document("a2", " ".join([*a[:80], *c[:40]]), quality=0.7, url="https://a.org/#top"),
        document("b2", " ".join([*b[:80], *c[40:80]]), quality=0.6, url="https://a.org"),
        document("route", " ".join([*a[:90], *c[80:]]), quality=0.5, url="https://a.org/#/map"),
    ]
    dataset = run(tmp_path / "1", {"web/a": rows})
    fates = ledger(dataset)
    assert kept(dataset) == {rows[0]["id"], rows[1]["id"], rows[4]["id"]}
    assert fates[rows[2]["id"]]["survivor_id"] == rows[0]["id"]
    assert fates[rows[3]["id"]]["survivor_id"] == rows[1]["id"]
    assert all(fate["rule"] == "url_duplicate" and fate["score"] >= fate["threshold"] == 0.5 for fate in fates.values())
    assert len(kept(run(tmp_path / "2", {"web/a": rows}, url_threshold=0.0))) == 2


@pytest.mark.parametrize(
    ("survivor", "stays"),
    [
        (("source",), "wiki"),
        (("quality",), "good"),
        (("length",), "long"),
        (("date",), "old"),
        (("quality", "length"), "good"),
    ],
)
def test_the_survivor_is_chosen_by_the_configured_criteria(
    tmp_path: Path, survivor: tuple[str, ...], stays: str
) -> None:
    rng = random.Random(9)
    words = sentence_words(rng, 300)
    rows = [
        document("wiki", " ".join(words), source="wikipedia", quality=0.1, date="2020-01-01"),
        document("good", " ".join(words), quality=0.99, date="2021-01-01"),
        document("long", " ".join([*words, "postscript"]), quality=0.2),
        document("old", " ".join(words), quality=None, date="1999-05-05"),
    ]
    dataset = run(tmp_path, {"web/a": rows}, survivor=survivor, source_priority=("wikipedia", "web"))
    assert kept(dataset) == {row["id"] for row in rows if row["origin"]["record_id"] == stays}


def test_code_is_compared_within_its_language(tmp_path: Path) -> None:
    text = " ".join(sentence_words(random.Random(2), 100))
    rows = [document(name, text, programming_language=name) for name in ("C", "C++")]
    assert len(kept(run(tmp_path / "1", {"code/a": rows}))) == 2
    assert len(kept(run(tmp_path / "2", {"code/a": rows}, per_language_code=False))) == 1


def test_templates_with_other_content_stay(tmp_path: Path) -> None:
    """Pages that share half of their words with hundreds of others are no duplicates of them."""
    rng = random.Random(11)
    template = sentence_words(rng, 150)
    rows = [document(f"t{i}", " ".join([*template, *sentence_words(rng, 150)])) for i in range(200)]
    assert len(kept(run(tmp_path, {"web/a": rows}))) == 200


def test_texts_without_words_and_short_texts(tmp_path: Path) -> None:
    rows = [document(f"d{i}", text) for i, text in enumerate(["", "!!!", "one", "one two", "一二三", "one  two"])]
    dataset = run(tmp_path, {"web/a": rows})
    assert set(ledger(dataset)) == {rows[5]["id"]} or set(ledger(dataset)) == {rows[3]["id"]}


def test_a_later_crawl_is_compared_with_an_earlier_one_without_its_texts(tmp_path: Path) -> None:
    rng = random.Random(13)
    old = [document(f"old{i}", " ".join(sentence_words(rng, 120)), quality=0.1) for i in range(30)]
    first = run(tmp_path / "1", {"web/a": old})
    new = [
        document("copy", old[0]["text"], quality=0.9),
        document("near", " ".join(edited(rng, old[1]["text"].split(), 1)), quality=0.9),
        document("fresh", " ".join(sentence_words(rng, 120))),
    ]
    for file in first.files("data/"):
        first.local(file.path).write_bytes(b"the texts are gone")
    second = run(tmp_path / "2", {"web/a": new}, previous=(first.root,))
    fates = ledger(second)
    assert kept(second) == {new[2]["id"]}
    assert fates[new[0]["id"]]["survivor_id"] == old[0]["id"]
    assert fates[new[1]["id"]]["survivor_id"] == old[1]["id"]
    assert first.manifest.fingerprint in fates[new[0]["id"]]["detail"]
    assert len(kept(run(tmp_path / "3", {"web/a": new}, previous=(first.root,), scope="within"))) == 3
