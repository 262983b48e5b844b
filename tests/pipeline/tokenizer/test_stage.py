"""What the stage publishes: reproducible bytes, a fair sample, honest figures, and errors that say what to do."""

import json

import pytest

from infra.errors import ConfigError, InputError
from pipeline.tokenizer import STAGE, Tokenizer, TokenizerConfig
from pipeline.tokenizer.model import SPACE
from pipeline.tokenizer.sample import cut, draw, quotas, texts_below
from pipeline.tokenizer.train import MAX_SENTENCE_BYTES, passages
from tests.pipeline.corpus import corpus_documents, document, publish_documents
from tests.support import run_shard_stage, shared_data

SMALL = TokenizerConfig(vocab_size=500)


def test_unit_order_does_not_change_a_byte(tmp_path) -> None:
    documents = publish_documents(tmp_path / "in", corpus_documents({"web": 60, "code": 20}), files=3)
    forward = run_shard_stage(STAGE, SMALL, {"redact": documents}, tmp_path / "forward")
    backward = run_shard_stage(STAGE, SMALL, {"redact": documents}, tmp_path / "backward", reverse=True)
    assert forward.digest == backward.digest


def test_report_holds_fertility_by_source_and_the_proofs(tokenizer_dataset) -> None:
    report = json.loads(tokenizer_dataset.local("data/report.json").read_text())
    tokenizer = Tokenizer.load(tokenizer_dataset.local("data"))
    assert report["digest"] == tokenizer.digest and report["vocab_size"] == tokenizer.vocab_size == 700
    assert set(report["sources"]) == {"web", "code"}
    for entry in report["sources"].values():
        assert entry["lossy"] == 0
        assert 1 < entry["bytes_per_token"] < 8 and entry["tokens_per_word"] > 1
    documents = corpus_documents({"web": 200, "code": 50})
    with_space_mark = sum(SPACE in entry["text"] for entry in documents)
    assert report["sources"]["code"]["hub_differs"] == 0
    assert report["sources"]["web"]["hub_differs"] == with_space_mark


def test_a_vocabulary_the_corpus_cannot_fill_is_refused_with_the_largest_that_fits(tmp_path) -> None:
    documents = publish_documents(tmp_path / "in", corpus_documents({"web": 3}), files=1)
    with pytest.raises(ConfigError, match="too small for a vocabulary of 30000") as caught:
        run_shard_stage(STAGE, TokenizerConfig(vocab_size=30000), {"redact": documents}, tmp_path / "a")
    fitting = int(caught.value.remedy.split("at most ")[1].split(",")[0])
    run_shard_stage(STAGE, TokenizerConfig(vocab_size=fitting), {"redact": documents}, tmp_path / "b")


def test_a_vocabulary_without_room_for_the_characters_is_refused(tmp_path) -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 600))) * 3
    documents = publish_documents(tmp_path / "in", [document("web", 1, many)], files=1)
    with pytest.raises(ConfigError, match="no room for the characters"):
        run_shard_stage(STAGE, TokenizerConfig(vocab_size=400), {"redact": documents}, tmp_path / "run")


def test_an_empty_corpus_is_refused(tmp_path) -> None:
    documents = publish_documents(tmp_path / "in", [], files=1)
    with pytest.raises(InputError, match="no text to train"):
        run_shard_stage(STAGE, SMALL, {"redact": documents}, tmp_path / "run")


def test_the_sample_is_the_same_however_documents_lie_in_files(tmp_path) -> None:
    documents = corpus_documents({"web": 300})
    budget = 30_000
    drawn = []
    for files in (1, 7):
        dataset = publish_documents(tmp_path / str(files), documents, files=files)
        targets = []
        for number, output in enumerate(dataset.files(suffix=".parquet")):
            target = tmp_path / f"{files}-{number}.parquet"
            draw([dataset.url(output.path)], 1.0, target)
            targets.append(str(target))
        drawn.append(sorted(texts_below(targets, cut(targets, budget))))
    assert drawn[0] == drawn[1]
    size = sum(len(text.encode()) for text in drawn[0])
    assert budget - 5_000 < size <= budget


def test_smoothing_gives_a_small_source_more_than_its_size(tmp_path) -> None:
    sizes = {"web": 900_000_000, "code": 100_000_000}
    share = {alpha: quotas(sizes, 10_000_000, alpha)["code"].budget / 10_000_000 for alpha in (1.0, 0.5, 0.0)}
    assert share[1.0] == pytest.approx(0.1) and share[0.5] == pytest.approx(0.25) and share[0.0] == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["word " * 9000, "x" * 50_000, "日" * 20_000, "a\nb" * 7000, ""])
def test_long_texts_are_handed_over_whole_in_acceptable_passages(text: str) -> None:
    found = list(passages(text))
    assert "".join(found) == text
    assert all(len(passage.replace(" ", SPACE).encode()) <= MAX_SENTENCE_BYTES for passage in found)


@pytest.mark.slow
def test_real_books_and_code_are_lossless_with_equal_ids(tmp_path) -> None:
    import gzip
    import sysconfig
    from pathlib import Path

    with gzip.open(shared_data("text_books.jsonl.gz"), "rt") as stream:
        books = [json.loads(line)["text"] for _, line in zip(range(12), stream, strict=False)]
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:150]
    documents = [document("books", number, text) for number, text in enumerate(books)]
    documents += [document("code", number, path.read_text(errors="replace")) for number, path in enumerate(sources)]
    dataset = publish_documents(tmp_path / "in", documents)
    config = TokenizerConfig(vocab_size=8192, measured_megabytes=20)
    report = json.loads(
        run_shard_stage(STAGE, config, {"redact": dataset}, tmp_path / "run").local("data/report.json").read_text()
    )
    for entry in report["sources"].values():
        assert entry["lossy"] == 0 and entry["hub_differs"] == 0
    assert report["sources"]["books"]["bytes_per_token"] > 3.5
    assert report["sources"]["code"]["bytes_per_token"] > 3.0
