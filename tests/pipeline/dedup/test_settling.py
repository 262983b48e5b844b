"""Who stays depends on the graph of verified pairs alone."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup import STAGE, DedupConfig
from pipeline.dedup.settle import ROUNDS
from tests.pipeline.dedup.corpora import document, kept, ledger, publish, sentence_words
from tests.support import run_shard_stage


def versions(rng: random.Random, number: int, changes: int) -> list[list[str]]:
    """A page edited again and again, each time elsewhere."""
    texts = [sentence_words(rng, 200)]
    while len(texts) < number:
        words = list(texts[-1])
        for at in rng.sample(range(5, 195), changes):
            words[at] = f"new{rng.randrange(10**9)}"
        texts.append(words)
    return texts


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def similarity(a: list[str], b: list[str]) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    families=st.integers(1, 4),
    length=st.integers(2, 6),
    block=st.sampled_from([2, 1000]),
)
def test_every_dropped_document_resembles_its_survivor_and_survivors_do_not_resemble_each_other(
    tmp_path_factory: pytest.TempPathFactory, seed: int, families: int, length: int, block: int
) -> None:
    rng = random.Random(seed)
    texts = [words for _ in range(families) for words in versions(rng, length, rng.randrange(1, 6))]
    rows = [document(f"d{i}", " ".join(words), quality=rng.random()) for i, words in enumerate(texts)]
    folder = tmp_path_factory.mktemp("settle")
    # So many bands that practically every similar pair is nominated: what stays is then decided by the graph.
    config = DedupConfig(preset="custom", bands=100, rows=3, block_documents=block)
    dataset = run_shard_stage(STAGE, config, {"quality": publish(folder / "q", {"web/a": rows})}, folder / "d")
    words_of = {row["id"]: words for row, words in zip(rows, texts, strict=True)}
    for identity, fate in ledger(dataset).items():
        true = similarity(words_of[identity], words_of[fate["survivor_id"]])
        assert fate["score"] == pytest.approx(true)
        assert true >= config.threshold
    stays = sorted(kept(dataset))
    for i, one in enumerate(stays):
        for other in stays[i + 1 :]:
            assert similarity(words_of[one], words_of[other]) < config.threshold


def test_a_chain_longer_than_the_rounds_ends(tmp_path: Path) -> None:
    """Each version resembles the next; every document is a block, so that each step of the chain crosses one."""
    rng = random.Random(1)
    number = ROUNDS + 3
    rows = [
        document(f"v{i:03}", " ".join(words), date=f"20{i // 12:02}-{i % 12 + 1:02}-01")
        for i, words in enumerate(versions(rng, number, 3))
    ]
    config = DedupConfig(survivor=("date",), block_documents=1, preset="custom", bands=60, rows=3)
    dataset = run_shard_stage(STAGE, config, {"quality": publish(tmp_path / "q", {"web/a": rows})}, tmp_path / "d")
    assert dataset.manifest.stats["verification"]["undecided"] > 0
    assert len(kept(dataset)) + len(ledger(dataset)) == number
    assert {fate["survivor_id"] for fate in ledger(dataset).values()} <= kept(dataset)
