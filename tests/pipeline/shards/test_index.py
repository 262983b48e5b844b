"""The index of a shard set: what it says of words is what a search through the documents finds."""

import random
import shutil
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import InputError
from pipeline.shards import STAGE as SHARDS
from pipeline.shards import ShardsConfig, ShardSet, SourceWeight
from pipeline.shards.find import Index
from pipeline.shards.index import STAGE, IndexConfig, joined
from pipeline.tokenizer import STAGE as TOKENIZER
from pipeline.tokenizer import TokenizerConfig
from tests.pipeline.corpus import corpus_documents, document, publish_documents
from tests.support import run_shard_stage

CONFIG = ShardsConfig(
    seq_len=64, bucket_tokens=20_000, validation_fraction=0,
    mixture=(SourceWeight(source="web"), SourceWeight(source="code", max_epochs=2.5)),
)  # fmt: skip


@pytest.fixture(scope="module")
def documents():
    sentences = [
        "The heron of Überlingen waits — 「静かに」 — for 1,234 carp.\nThen it flies.",
        "Zebra\u2581crossing 👩‍👩‍👧‍👦 quietly?",
    ]
    own = [document("web", 5000 + number, text) for number, text in enumerate(sentences)]
    return [*corpus_documents({"web": 220, "code": 60}), *own]


@pytest.fixture(scope="module")
def shards(documents, tokenizer_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    inputs = {"redact": publish_documents(folder / "redact", documents), "tokenizer": tokenizer_dataset}
    return run_shard_stage(SHARDS, CONFIG, inputs, folder / "run")


@pytest.fixture(scope="module")
def indexed(shards, tokenizer_dataset, tmp_path_factory):
    return run_shard_stage(
        STAGE, IndexConfig(), {"shards": shards, "tokenizer": tokenizer_dataset}, tmp_path_factory.mktemp("index")
    )


@pytest.fixture(scope="module")
def index(indexed):
    return Index(indexed)


def test_documents_are_whole_again_and_each_stands_there_as_often_as_it_is_trained_on(shards, index) -> None:
    opened = ShardSet.open(shards.local("data"), "train")
    pieces = [piece for row in range(len(opened)) for piece in opened.documents(row)]
    expected = Counter(piece.document_id for piece in pieces if piece.document_offset == 0)
    assert len(index.parts) > 2 and max(expected.values()) > 1 and max(p.document_offset for p in pieces) > 0
    found: Counter[bytes] = Counter()
    for part in index.parts:
        tokens = part.text(0, len(part.low))
        for place in np.flatnonzero(tokens == index.tokenizer.bos_id).tolist():
            found[part.origin(part.document(place))["document_id"]] += 1
        assert (tokens != index.tokenizer.pad_id).all()
    assert found == expected
    assert sum(len(part.low) for part in index.parts) == sum(piece.end - piece.start for piece in pieces)


def test_any_part_of_a_document_is_found_whole_with_its_document_and_row(index, shards, documents) -> None:
    opened = ShardSet.open(shards.local("data"), "train")
    held = Counter(p.document_id for row in range(len(opened)) for p in opened.documents(row) if not p.document_offset)
    texts = {entry["id"].hex(): entry["text"] for entry in documents if entry["id"] in held}
    rng = random.Random(0)
    for number in range(150):
        text = (
            rng.choice([text for text in texts.values() if len(text) > 40])
            if number
            else texts[documents[-2]["id"].hex()]
        )
        start = rng.randrange(len(text) - 30)
        asked = text[start : start + rng.randint(30, 200)]
        if not asked.strip() or (number and sum(c.isalnum() for c in asked) < 15):
            continue
        span = index.find(asked, 500).spans[0]
        assert (span.start, span.end) == (0, len(asked)), asked
        standing = {id: other.count(asked) for id, other in texts.items() if asked in other}
        assert span.count == sum(times * held[bytes.fromhex(id)] for id, times in standing.items())
        assert {match.id for match in span.matches} == {*standing}
        for match in span.matches:
            assert match.before + asked + match.after in texts[match.id]
            assert match.id in {piece.document_id.hex() for piece in opened.documents(match.rows[0])}
            assert opened.shards[int(match.shard[-5:])].first_row <= match.rows[0]


def test_what_two_documents_say_together_is_found_apart(index, documents) -> None:
    heron, other = documents[-2]["text"], next(e["text"] for e in documents if e["source"] == "code")
    text = f"{heron[4:40]} xyzzy {other[:60]}"
    spans = index.find(text).spans
    assert [text[span.start : span.end] for span in spans[:2]] == [f" {other[:60]}"[1:], heron[4:40]] or {
        text[span.start : span.end].strip() for span in spans[:2]
    } == {other[:60].strip(), heron[4:40].strip()}
    assert spans[-1].matches[0].url.startswith("https://") and spans[0].tokens >= spans[1].tokens
    match = next(m for span in spans for m in span.matches if m.id == documents[-2]["id"].hex())
    assert (match.archive, match.offset, match.quality) == ("web.warc.gz", 5_000_000, 0.5)


def test_noise_is_left_out_unless_it_is_all_that_was_asked_for(index) -> None:
    assert not index.find("qqq the qqq and, qqq").spans
    assert not index.find("zzz):\n    zzz").spans
    alone = index.find("the").spans[0]
    assert (alone.start, alone.end) == (0, 3) and alone.count > 100 and len(alone.matches) == 10
    assert index.find(" the ", limit=2).spans[0].count > 0


def test_a_long_text_of_one_letter_or_word_takes_no_longer_than_any(index) -> None:
    index.find("the words")  # the first search may compile
    began = time.process_time()
    for text in ("z" * 300_000, "the " * 75_000):
        assert {span.matches[0].source for span in index.find(text, limit=3).spans} <= {"web", "code"}
    assert time.process_time() - began < 3


def test_no_words_and_too_many(index) -> None:
    for text in ("", " \n"):
        with pytest.raises(InputError, match="no words"):
            index.find(text)
    with pytest.raises(InputError, match="characters"):
        index.find("a" * (1 << 20) + "b")
    # Odd input is text like any other.
    assert index.find("\ud800 the heron of").tokens > 0
    assert index.find("<s></s><pad> the heron").tokens > 0


def test_the_same_bytes_in_any_order_and_less_than_eight_a_token(shards, tokenizer_dataset, indexed, tmp_path) -> None:
    inputs = {"shards": shards, "tokenizer": tokenizer_dataset}
    assert run_shard_stage(STAGE, IndexConfig(), inputs, tmp_path, reverse=True).digest == indexed.digest
    assert indexed.manifest.stats["tokens"] == shards.manifest.stats["total_tokens"]
    per_token = sum(file.bytes for file in indexed.files("data/", "s.npy")) / indexed.manifest.stats["tokens"]
    assert per_token < 8


def test_a_piece_whose_document_begins_elsewhere_is_parted_from_the_one_before(shards) -> None:
    path = shards.local("data") / "train-00000.arrow"
    lineage = pq.read_table(path.with_name("train-00000.lineage.parquet"))
    offset = lineage["document_offset"].to_numpy()
    without = lineage.filter(pa.array(offset != 65))
    assert without.num_rows < lineage.num_rows
    tokens, pieces, _ = joined(ShardSet.of_files([path], "train"), without, 700)
    orphans = np.flatnonzero(tokens == 0)
    assert len(orphans) == (offset == 130).sum() > 0
    assert {*(orphans + 1).tolist()} <= {*pieces[:, 0].tolist()}


def test_another_tokenizer_and_a_damaged_index_are_refused(shards, indexed, documents, tmp_path) -> None:
    redact = publish_documents(tmp_path / "redact", documents[:200])
    other = run_shard_stage(TOKENIZER, TokenizerConfig(vocab_size=600), {"redact": redact}, tmp_path / "tokenizer")
    with pytest.raises(InputError, match="the shards were made with tokenizer"):
        run_shard_stage(STAGE, IndexConfig(), {"shards": shards, "tokenizer": other}, tmp_path / "index")
    copy = tmp_path / "copy"
    shutil.copytree(indexed.root, copy)
    shutil.copy(other.local("data/tokenizer.model"), copy / "data/tokenizer.model")
    with pytest.raises(InputError, match="was made with tokenizer"):
        Index(type(indexed)(str(copy), indexed.manifest))
    shutil.copy(indexed.local("data/tokenizer.model"), copy / "data/tokenizer.model")
    np.save(copy / "data/train-00000.suffixes.npy", np.zeros(3, np.uint32))
    with pytest.raises(InputError, match="index of shard train-00000 is damaged"):
        Index(type(indexed)(str(copy), indexed.manifest))
    with pytest.raises(InputError, match="is no index"):
        Index(shards)
