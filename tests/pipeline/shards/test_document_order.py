"""Corpora that share documents are read alike; and the order is one: a permutation that can be asked both ways."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.document_order import DocumentOrder, document_order
from pipeline.shards.reader import ShardSet
from pipeline.shards.stage import STAGE, ShardsConfig
from pipeline.tokenizer import STAGE as TOKENIZER
from pipeline.tokenizer import TokenizerConfig
from tests.pipeline.corpus import corpus_documents, publish_documents
from tests.support import run_shard_stage


@settings(max_examples=100, deadline=None)
@given(
    phases=st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 2**63 - 1),
    total=st.integers(0, 400),
    kinds=st.integers(1, 1000),
)
def test_every_row_comes_once_an_epoch_in_its_phase(phases: list[int], seed: int, total: int, kinds: int) -> None:
    n = sum(phases)
    names = np.arange(n, dtype=np.uint64) % np.uint64(kinds)  # a mixture may hold a document more than once
    order = DocumentOrder(seed, phases, names, total)
    consumed = np.arange(3 * n)
    rows = order.rows(consumed)
    for epoch in range(3):
        start = 0
        for size in phases:
            of_phase = rows[epoch * n + start : epoch * n + start + size]
            assert sorted(of_phase.tolist()) == list(range(start, start + size))
            start += size
        assert (order.consumed(epoch, rows[epoch * n : (epoch + 1) * n]) == consumed[:n] + epoch * n).all()
    assert (order.rows(consumed[::-1]) == rows[::-1]).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0.3, 1.0))
def test_what_two_corpora_share_is_read_of_both_in_one_order(seed: int, share: float) -> None:
    names = np.random.default_rng(seed).integers(0, 2**63, 2000).astype(np.uint64)
    fewer = names[::2] if share < 0.5 else np.delete(names, np.arange(0, 2000, 10))
    total = round(share * len(fewer))
    large, small = DocumentOrder(seed, [2000], names, total), DocumentOrder(seed, [len(fewer)], fewer, total)
    read, also = names[large.rows(np.arange(total))], fewer[small.rows(np.arange(total))]
    common = np.intersect1d(read, also)
    assert [name for name in read if name in set(common)] == [name for name in also if name in set(common)]
    # All of the larger corpus that is in the smaller one is read of both: what is left out makes room for others.
    assert len(common) == np.isin(read, fewer).sum()


def test_seeds_and_epochs_order_differently() -> None:
    names = np.random.default_rng(1).integers(0, 2**63, 5000).astype(np.uint64)
    first, other = (DocumentOrder(seed, [5000], names, 15_000).rows(np.arange(15_000)) for seed in (0, 1))
    for one, two in ((first[:5000], first[5000:10_000]), (first[:5000], other[:5000])):
        assert (one == two).mean() < 0.01
    assert set(DocumentOrder(0, [5000], names, 500).rows(np.arange(500))) != set(
        DocumentOrder(1, [5000], names, 500).rows(np.arange(500))
    )


def test_documents_more_leave_the_others_rows_in_their_order(tmp_path: Path) -> None:
    documents = corpus_documents({"web": 60})
    everything = publish_documents(tmp_path / "documents", documents)
    tokenizer = run_shard_stage(TOKENIZER, TokenizerConfig(vocab_size=400), {"redact": everything}, tmp_path / "words")

    def whole_rows(name: str, texts: list) -> list[tuple[str, int]]:
        """The rows in their order that are a part of one document, by what they are."""
        made = run_shard_stage(
            STAGE,
            ShardsConfig(seq_len=16, validation_fraction=0, validation_documents=0),
            {"redact": publish_documents(tmp_path / name, texts), "tokenizer": tokenizer},
            tmp_path / f"{name}-shards",
        )
        shards = ShardSet.open(made.local("data"), "train")
        rows = document_order(shards, 3, len(shards)).rows(np.arange(len(shards)))
        spans = [shards.documents(int(row)) for row in rows]
        return [(of_row[0].url, of_row[0].document_offset) for of_row in spans if len(of_row) == 1]

    fewer = whole_rows("fewer", documents[:50])
    assert len(fewer) > 100 and len(set(fewer)) == len(fewer)
    more = whole_rows("more", documents)
    shared = set(fewer) & set(more)  # not a rest that has a longer one beside it here and none there
    assert len(shared) > 0.9 * len(fewer)
    assert [row for row in more if row in shared] == [row for row in fewer if row in shared]
