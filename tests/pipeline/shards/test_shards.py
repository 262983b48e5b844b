"""The published shards: every token where its lineage says, the same bytes however the work was cut, refusals."""

import json
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from infra.errors import ConfigError, InputError
from pipeline.shards import STAGE, ShardsConfig, ShardSet, SourceWeight
from pipeline.shards.mixing import Phase
from pipeline.shards.reader import splits
from tests.pipeline.corpus import corpus_documents, document, publish_documents
from tests.support import run_shard_stage

CONFIG = ShardsConfig(seq_len=128, bucket_tokens=16_000, validation_fraction=0.1, group_megabytes=0.01)
MIXTURE = (SourceWeight(source="web", weight=1), SourceWeight(source="code", weight=1, max_epochs=2.5))


@pytest.fixture(scope="module")
def documents():
    return [*corpus_documents({"web": 300, "code": 80}), document("web", 9001, "too short")]


@pytest.fixture(scope="module")
def redact(documents, tmp_path_factory):
    return publish_documents(tmp_path_factory.mktemp("redact"), documents, files=3)


@pytest.fixture(scope="module")
def build(redact, tokenizer_dataset, tmp_path_factory):
    def run(config: ShardsConfig, **options):
        inputs = {"redact": redact, "tokenizer": tokenizer_dataset}
        return run_shard_stage(STAGE, config, inputs, tmp_path_factory.mktemp("shards"), **options)

    return run


@pytest.fixture(scope="module")
def plain(build):
    return build(CONFIG)


@pytest.fixture(scope="module")
def mixed(build):
    return build(CONFIG.model_copy(update={"mixture": MIXTURE}))


PHASES = (
    Phase(tokens=30_000, mixture=(SourceWeight(source="web", weight=3), SourceWeight(source="code", weight=1))),
    Phase(mixture=(SourceWeight(source="web", weight=1), SourceWeight(source="code", weight=2, max_epochs=1.5))),
)


@pytest.fixture(scope="module")
def curriculum(build):
    return build(CONFIG.model_copy(update={"phases": PHASES}))


def tokens_of(tokenizer, entry) -> list[int]:
    return [tokenizer.bos_id, *tokenizer.encode(entry["text"]), tokenizer.eos_id]


def read_ledger(dataset) -> list[dict]:
    return [row for output in dataset.files("ledger/") for row in pq.read_table(dataset.url(output.path)).to_pylist()]


@pytest.mark.parametrize("which", ["plain", "mixed", "curriculum"])
def test_every_span_is_the_document_its_lineage_names(which, request, documents, tokenizer) -> None:
    dataset = request.getfixturevalue(which)
    by_id = {entry["id"]: entry for entry in documents}
    for split in splits(dataset.local("data")):
        shards = ShardSet.open(dataset.local("data"), split, tokenizer.digest)
        batch = shards.rows(np.arange(len(shards)))
        for row in range(len(shards)):
            spans = shards.documents(row)
            assert [span.start for span in spans] == batch.boundaries[row].tolist()
            assert [span.end for span in spans] == [*batch.boundaries[row][1:].tolist(), batch.lengths[row]]
            assert (batch.input_ids[row, batch.lengths[row] :] == tokenizer.pad_id).all()
            for span in spans:
                entry = by_id[span.document_id]
                tokens = tokens_of(tokenizer, entry)[span.document_offset :][: span.end - span.start]
                assert batch.input_ids[row, span.start : span.end].tolist() == tokens
                assert (span.url, span.source) == (entry["url"], entry["source"])
                assert span.archive_offset == entry["origin"]["offset"] and span.quality == 0.5


def test_each_document_is_whole_and_there_once_in_train_or_validation(plain, documents, tokenizer) -> None:
    seen: dict[bytes, Counter] = {}
    where: dict[bytes, set[str]] = {}
    for split in splits(plain.local("data")):
        shards = ShardSet.open(plain.local("data"), split)
        for row in range(len(shards)):
            for span in shards.documents(row):
                positions = range(span.document_offset, span.document_offset + span.end - span.start)
                seen.setdefault(span.document_id, Counter()).update(positions)
                where.setdefault(span.document_id, set()).add(split)
    for entry in documents[:-1]:
        assert seen[entry["id"]] == Counter(range(len(tokens_of(tokenizer, entry))))
        assert where[entry["id"]] in ({"train"}, {f"validation-{entry['source']}"})
    assert documents[-1]["id"] not in seen
    assert {split for splits_of in where.values() for split in splits_of} == {
        "train",
        "validation-web",
        "validation-code",
    }


def test_no_document_vanishes(plain, mixed, curriculum, documents) -> None:
    for dataset in (plain, mixed, curriculum):
        counts = dataset.manifest.counts
        ledger = read_ledger(dataset)
        assert counts.incoming == len(documents) == counts.kept + sum(counts.dropped.values())
        assert Counter(row["rule"] for row in ledger) == counts.dropped
        kept = set()
        for output in dataset.files(suffix=".lineage.parquet"):
            kept |= set(pq.read_table(dataset.url(output.path))["document_id"].to_pylist())
        assert len(kept) == counts.kept and not kept & {row["id"] for row in ledger}
    assert plain.manifest.counts.dropped == {"too_few_tokens": 1}
    assert mixed.manifest.counts.dropped["mixture_cap"] > 10


def test_mixture_weights_are_honoured(mixed) -> None:
    stats = json.loads(mixed.local("data/stats.json").read_text())
    assert stats["mixture"]["web"]["planned_share"] == pytest.approx(0.5)
    assert stats["mixture"]["web"]["share"] == pytest.approx(0.5, abs=0.05)
    assert stats["mixture"]["code"]["rate"] == pytest.approx(2.5)
    copies = Counter(
        span
        for output in mixed.files(suffix=".lineage.parquet")
        if "train" in output.path
        for span in zip(
            *(
                pq.read_table(mixed.url(output.path))[name].to_pylist()
                for name in ("document_id", "document_offset", "source")
            ),
            strict=True,
        )
    )
    repeats = [count for (_, offset, source), count in copies.items() if source == "code" and offset == 0]
    assert set(repeats) == {2, 3}


def test_a_curriculum_changes_the_mixture_at_a_token_count(curriculum, build) -> None:
    shards = ShardSet.open(curriculum.local("data"), "train")
    first, second = shards.phases
    tokens = [Counter(), Counter()]
    taken = [Counter(), Counter()]
    for row in range(len(shards)):
        for span in shards.documents(row):
            tokens[row >= first][span.source] += span.end - span.start
            taken[row >= first][span.document_id, span.document_offset] += 1
    assert sum(tokens[0].values()) == pytest.approx(30_000, rel=0.1)
    assert tokens[0]["web"] / sum(tokens[0].values()) == pytest.approx(0.75, abs=0.05)
    assert tokens[1]["code"] / sum(tokens[1].values()) == pytest.approx(2 / 3, abs=0.05)
    both = taken[0] + taken[1]
    assert set(both.values()) == {1, 2} and set(taken[0].values()) == set(taken[1].values()) == {1}
    repeated = [key for key, count in both.items() if count == 2]
    by_source = {span.document_id: span.source for row in range(len(shards)) for span in shards.documents(row)}
    assert {by_source[document] for document, _ in repeated} == {"code"}, "web lasts for both phases"
    stats = json.loads(curriculum.local("data/stats.json").read_text())
    assert [phase["sequences"] for phase in stats["phases"]] == [first, second]
    assert [phase["tokens"] for phase in stats["phases"]] == [dict(counter) for counter in tokens]
    assert build(CONFIG.model_copy(update={"phases": PHASES}), reverse=True).digest == curriculum.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": PHASES, "mixture": MIXTURE}, "of their own"),
        ({"phases": PHASES[::-1]}, "every phase but the last"),
    ],
)
def test_a_curriculum_that_contradicts_itself_is_refused(changes, said) -> None:
    with pytest.raises(ValidationError, match=said):
        ShardsConfig.model_validate(changes)


def test_a_phase_that_asks_for_more_than_there_is_is_refused(build) -> None:
    greedy = Phase(tokens=10**9, mixture=(SourceWeight(source="web"),))
    with pytest.raises(ConfigError, match="phase 2 asks for"):
        build(CONFIG.model_copy(update={"phases": (PHASES[0], greedy)}))


def test_the_cut_of_the_work_cannot_be_seen(build, mixed) -> None:
    mixture = CONFIG.model_copy(update={"mixture": MIXTURE})
    assert build(mixture, reverse=True).digest == mixed.digest
    assert build(mixture.model_copy(update={"group_megabytes": 64.0})).digest == mixed.digest


def test_documents_lying_in_other_files_give_the_same_shards(documents, tokenizer_dataset, plain, tmp_path) -> None:
    moved = publish_documents(tmp_path / "in", documents[::-1], files=5)
    inputs = {"redact": moved, "tokenizer": tokenizer_dataset}
    found = run_shard_stage(STAGE, CONFIG, inputs, tmp_path / "run")
    assert [output.as_dict() for output in found.files("data/")] == [o.as_dict() for o in plain.files("data/")]


def test_another_seed_shuffles_but_holds_out_the_same(build, plain) -> None:
    other = build(CONFIG.model_copy(update={"seed": 1}))
    first, second = (ShardSet.open(dataset.local("data"), "train") for dataset in (plain, other))
    assert not np.array_equal(first.rows(np.arange(5)).input_ids, second.rows(np.arange(5)).input_ids)

    def held(dataset):
        return set(pq.read_table(dataset.url("data/validation-web.lineage.parquet"))["document_id"].to_pylist())

    assert held(plain) == held(other)


def test_a_small_source_holds_out_enough_documents_but_never_over_a_tenth(build) -> None:
    def held(**changes) -> dict[str, int]:
        stats = json.loads(build(CONFIG.model_copy(update=changes)).local("data/stats.json").read_text())
        return {source: entry["documents"] for source, entry in stats["validation"].items()}

    assert held(validation_fraction=0.001, validation_documents=6) == {"web": 6, "code": 6}
    assert held(validation_fraction=0.001, validation_documents=1000) == {"web": 30, "code": 8}
    assert held(validation_fraction=0.0, validation_documents=6) == {}


def test_statistics_are_those_of_the_rows(plain, tokenizer, documents) -> None:
    stats = json.loads(plain.local("data/stats.json").read_text())
    shards = ShardSet.open(plain.local("data"), "train")
    tokens = np.concatenate([shards.tokens(row) for row in range(len(shards))])
    shares = np.unique(tokens, return_counts=True)[1] / len(tokens)
    assert stats["unigram_entropy_nats"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert stats["total_tokens"] == len(tokens) == sum(stats["tokens"].values())
    assert stats["sequences"] == len(shards)
    assert stats["packing_efficiency"] == pytest.approx(len(tokens) / (len(shards) * 129))
    assert stats["packing_efficiency"] > 0.95
    validation = ShardSet.open(plain.local("data"), "validation-web")
    batch = validation.rows(np.arange(len(validation)))
    assert batch.bytes is not None and int(batch.bytes.sum()) == stats["validation"]["web"]["bytes"]
    # Where every document of a row is there in one piece, each of its bytes is a target.
    by_id = {entry["id"]: entry for entry in documents}

    def in_one_piece(row: int) -> bool:
        spans = validation.documents(row)
        return all(len(tokens_of(tokenizer, by_id[span.document_id])) == span.end - span.start for span in spans)

    row = next(row for row in range(len(validation)) if in_one_piece(row))
    sizes = [len(by_id[span.document_id]["text"].encode()) for span in validation.documents(row)]
    assert batch.bytes[row] == sum(sizes)


def test_rows_come_in_the_order_asked_for_and_without_a_copy(plain) -> None:
    shards = ShardSet.open(plain.local("data"), "train")
    assert len(shards.shards) > 1
    wanted = np.array([len(shards) - 1, 0, 7, 0])
    batch = shards.rows(wanted)
    for at, row in enumerate(wanted):
        view = shards.tokens(int(row))
        assert not view.flags.owndata and view.dtype == np.uint16
        assert batch.input_ids[at, : batch.lengths[at]].tolist() == view.tolist()
    with pytest.raises(IndexError):
        shards.rows(np.array([len(shards)]))


def test_a_url_is_found_in_every_row_that_saw_it(plain, documents) -> None:
    shards = ShardSet.open(plain.local("data"), "train")
    span = shards.documents(3)[0]
    assert span.url is not None
    found = list(shards.find_url(span.url))
    assert span in found and {entry.document_id for entry in found} == {span.document_id}
    assert list(shards.find_url("https://nowhere.example/")) == []


def test_the_datasets_library_opens_a_shard(plain, tokenizer) -> None:
    opened = datasets.Dataset.from_file(str(plain.local("data/train-00000.arrow")))
    shards = ShardSet.open(plain.local("data"), "train")
    assert opened[0]["input_ids"] == shards.rows(np.array([0])).input_ids[0].tolist()
    metadata = pa.ipc.open_stream(pa.memory_map(str(plain.local("data/train-00000.arrow")))).schema.metadata
    assert json.loads(metadata[b"tokenizer_digest"]) == tokenizer.digest and json.loads(metadata[b"seq_len"]) == 128


def test_another_tokenizer_is_refused(plain) -> None:
    with pytest.raises(InputError, match="was made with tokenizer"):
        ShardSet.open(plain.local("data"), "train", "0" * 64)


def test_what_is_no_shard_is_refused(plain, tmp_path) -> None:
    with pytest.raises(InputError, match="no shards of split 'test'") as caught:
        ShardSet.open(plain.local("data"), "test")
    assert "train, validation-code, validation-web" in caught.value.remedy
    whole = plain.local("data/train-00000.arrow").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"not arrow at all", "empty": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-00000.arrow").write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            ShardSet.open(tmp_path / name, "train")
    with (
        pa.OSFile(str(tmp_path / "train-00000.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, pa.schema([("x", pa.int32())])),
    ):
        pass
    with pytest.raises(InputError, match="not a token shard"):
        ShardSet.open(tmp_path, "train")


def test_a_mixture_of_unknown_sources_and_an_empty_rest_are_refused(build) -> None:
    with pytest.raises(ConfigError, match="names the source 'wiki'"):
        build(CONFIG.model_copy(update={"mixture": (SourceWeight(source="wiki"),)}))
    with pytest.raises(InputError, match="no training tokens"):
        build(CONFIG.model_copy(update={"min_tokens": 100_000}))


def test_a_large_vocabulary_gets_wider_ids() -> None:
    from pipeline.shards.format import shard_schema

    assert shard_schema(65_535, 8, {}, False).field("input_ids").type == pa.list_(pa.uint16(), 9)
    assert shard_schema(65_536, 8, {}, False).field("input_ids").type == pa.list_(pa.uint32(), 9)
