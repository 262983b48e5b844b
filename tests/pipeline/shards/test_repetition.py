"""Quality decides how often: the curve's mean holds whatever the ties, order and cut of the work; every document is told of."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import ConfigError, InputError
from infra.stage import Counts
from infra.store.files import describe_file
from pipeline.quality.histogram import score_bins
from pipeline.shards import STAGE, ShardsConfig, ShardSet, SourceWeight
from pipeline.shards.keys import copies, ring_keys
from pipeline.shards.mixing import Phase
from pipeline.shards.ranking import add_sketches, sketch
from pipeline.shards.repetition import Curve, Repetition
from pipeline.shards.stage import planned
from tests.pipeline.corpus import corpus_documents, publish_documents
from tests.support import adopt_dataset, run_shard_stage

STEPS = ((0.0, 0.0), (0.3, 1.0), (0.9, 4.0))
WEB = Repetition(source="web", curve=STEPS)
CONFIG = ShardsConfig(
    seq_len=128, bucket_tokens=16_000, validation_fraction=0.1, group_megabytes=0.01, repetition=(WEB,)
)


def scored_documents():
    """Web documents with scores 0 to .99 each thrice, one in ten without; code without."""
    documents = corpus_documents({"web": 300, "code": 60})
    for number, entry in enumerate(documents):
        scored = entry["source"] == "web" and number % 10
        entry["quality"] = (number * 7 % 100) / 100 if scored else None
    return documents


@pytest.fixture(scope="module")
def documents():
    return scored_documents()


@pytest.fixture(scope="module")
def build(documents, tokenizer_dataset, tmp_path_factory):
    def run(config: ShardsConfig, files: int = 3, entries=documents, **options):
        redact = publish_documents(tmp_path_factory.mktemp("redact"), entries, files=files)
        inputs = {"redact": redact, "tokenizer": tokenizer_dataset} | options.pop("inputs", {})
        return run_shard_stage(STAGE, config, inputs, tmp_path_factory.mktemp("shards"), **options)

    return run


@pytest.fixture(scope="module")
def curved(build):
    return build(CONFIG)


def times_seen(dataset) -> Counter[bytes]:
    """How often each document is in the training rows."""
    seen: Counter[bytes] = Counter()
    for output in dataset.files("data/train", ".lineage.parquet"):
        table = pq.read_table(dataset.url(output.path)).to_pylist()
        seen.update(row["document_id"] for row in table if row["document_offset"] == 0)
    return seen


def held_out(dataset) -> set[bytes]:
    found: set[bytes] = set()
    for output in dataset.files("data/validation", ".lineage.parquet"):
        found |= set(pq.read_table(dataset.url(output.path))["document_id"].to_pylist())
    return found


def test_the_worst_are_left_out_and_the_best_repeated(curved, documents) -> None:
    stats = json.loads(curved.local("data/stats.json").read_text())
    told = stats["versions"][0]["repetition"]["web"]
    assert [(step["quantile"], step["times"]) for step in told["steps"]] == list(STEPS)
    once, often = (step["from"] for step in told["steps"][1:])
    seen, held = times_seen(curved), held_out(curved)
    for entry in documents:
        if entry["id"] in held:
            continue
        score, times = entry["quality"], seen[entry["id"]]
        if entry["source"] == "code":
            assert times == 1
        elif score is None:
            assert times == 1, "as often as the source on average"
        elif score < once - 0.005:
            assert times == 0
        elif once + 0.005 < score < often - 0.005:
            assert times == 1
        elif score > often + 0.005:
            assert times == 4
        else:
            assert times <= 4, "the tie at a step"
    assert stats["mixture"]["web"]["rate"] == pytest.approx(WEB.mean) == pytest.approx(1.0)
    assert stats["tokens"]["web"] == pytest.approx(stats["mixture"]["web"]["available_tokens"], rel=0.06)


def test_no_document_vanishes_and_each_left_out_is_told_why(curved, documents) -> None:
    counts, seen, held = curved.manifest.counts, times_seen(curved), held_out(curved)
    ledger = [row for output in curved.files("ledger/") for row in pq.read_table(curved.url(output.path)).to_pylist()]
    assert counts.incoming == len(documents) == counts.kept + sum(counts.dropped.values())
    assert Counter(row["rule"] for row in ledger) == counts.dropped
    assert {row["id"] for row in ledger} == {entry["id"] for entry in documents} - set(seen) - held
    threshold = json.loads(curved.local("data/stats.json").read_text())["versions"][0]["repetition"]["web"]["threshold"]
    by_id = {entry["id"]: entry for entry in documents}
    for row in ledger:
        assert row["rule"] == "repetition_curve" and row["threshold"] == pytest.approx(threshold)
        assert row["score"] == pytest.approx(by_id[row["id"]]["quality"]) and row["score"] < threshold
        assert "quality of web" in row["detail"]


def test_the_cut_of_the_work_cannot_be_seen(build, curved, documents) -> None:
    assert build(CONFIG, reverse=True).digest == curved.digest
    assert build(CONFIG.model_copy(update={"group_megabytes": 64.0})).digest == curved.digest
    moved = build(CONFIG, files=5, entries=documents[::-1])
    assert [o.as_dict() for o in moved.files("data/")] == [o.as_dict() for o in curved.files("data/")]


def test_an_even_curve_gives_the_rows_of_none(build) -> None:
    even = build(CONFIG.model_copy(update={"repetition": (Repetition(source="web", curve=((0.0, 1.0),)),)}))
    plain = build(CONFIG.model_copy(update={"repetition": ()}))
    rows = [o.as_dict() for o in plain.files("data/", ".arrow")]
    assert rows == [o.as_dict() for o in even.files("data/", ".arrow")]
    assert "repetition" not in json.loads(plain.local("data/stats.json").read_text())["versions"][0]


def test_a_mixture_and_phases_shrink_all_repetitions_alike(build, documents) -> None:
    """Half of a pass of the curve: the best are seen twice, the middle every other one."""
    mixture = (SourceWeight(source="web"),)
    curve = (Repetition(source="web", curve=((0.0, 0.0), (0.5, 4.0))),)
    halved = CONFIG.model_copy(update={"repetition": curve})
    whole = build(halved.model_copy(update={"mixture": mixture}))
    available = json.loads(whole.local("data/stats.json").read_text())["mixture"]["web"]["available_tokens"]
    cut = halved.model_copy(update={"mixture": mixture, "total_tokens": available})
    dataset = build(cut)
    assert set(times_seen(dataset).values()) <= {1, 2, 3}
    assert json.loads(dataset.local("data/stats.json").read_text())["mixture"]["web"]["rate"] == pytest.approx(1.0)
    both = build(
        halved.model_copy(update={"phases": (Phase(tokens=available // 2, mixture=mixture), Phase(mixture=mixture))})
    )
    assert times_seen(both) == times_seen(whole)
    counts = both.manifest.counts
    assert counts.incoming == counts.kept + sum(counts.dropped.values())


def test_versions_have_curves_of_their_own(build, curved) -> None:
    later = [{**entry, "id": bytes(16 - len(at)) + at} for entry, at in zip(
        scored_documents()[:80], (number.to_bytes(2, "big") for number in range(1, 81)), strict=True
    )]  # fmt: skip
    dataset = build(CONFIG.model_copy(update={"append_to": curved.root}), entries=later)
    stats = json.loads(dataset.local("data/stats.json").read_text())
    assert [set(version["repetition"]) for version in stats["versions"]] == [{"web"}, {"web"}]
    first = ShardSet.open(curved.local("data"), "train")
    assert (
        ShardSet.open(dataset.local("data"), "train").rows(np.arange(3)).input_ids == first.rows(np.arange(3)).input_ids
    ).all()


def test_any_column_of_the_attributes_may_rank(build, documents, tmp_path) -> None:
    """Words as the score: those with the fewest go. Files and rows lie otherwise than the documents do."""
    web = [entry for entry in documents if entry["source"] == "web"]
    (tmp_path / "data/web").mkdir(parents=True)
    outputs = []
    for index in range(3):
        mine = web[index::3][::-1]
        words = [len(entry["text"].split()) for entry in mine]
        path = f"data/web/{index:04d}.parquet"
        pq.write_table(pa.table({"id": [entry["id"] for entry in mine], "words": words}), tmp_path / path)
        outputs.append(describe_file(tmp_path, path))
    attributes = adopt_dataset(tmp_path, "attributes", outputs, Counts(len(web), len(web)))
    entry = Repetition(source="web", score="words", curve=((0.0, 0.0), (0.5, 2.0)))
    config = CONFIG.model_copy(update={"repetition": (entry,)})
    assert STAGE.inputs(config)["attributes"] == "attributes" and "attributes" not in STAGE.inputs(CONFIG)
    seen = times_seen(build(config, inputs={"attributes": attributes}))
    lengths = {entry["id"]: len(entry["text"].split()) for entry in web}
    taken = sorted(lengths[id] for id in seen if id in lengths)
    held = held_out(build(config, inputs={"attributes": attributes}))
    left = sorted(length for id, length in lengths.items() if id not in seen and id not in held)
    assert left[-1] <= taken[0], "the half of the tokens that lies in the longer documents"


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        (((0.1, 1.0),), "begin at 0"),
        (((0.0, 1.0), (0.5, 2.0), (0.5, 3.0)), "begin at 0"),
        (((0.0, 1.0), (1.0, 2.0)), "below 1"),
        (((0.0, 8.0),), "between 0 and 7"),
        (((0.0, 0.0),), "takes nothing"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(curve, said) -> None:
    with pytest.raises(ValidationError, match=said):
        Repetition(source="web", curve=curve)


def test_what_the_data_cannot_do_is_refused(build) -> None:
    with pytest.raises(ConfigError, match=r"repetition names the source 'wiki', but there are code, web"):
        build(CONFIG.model_copy(update={"repetition": (Repetition(source="wiki", curve=STEPS),)}))
    with pytest.raises(InputError, match="no document of 'code' has the score 'quality'"):
        build(CONFIG.model_copy(update={"repetition": (Repetition(source="code", curve=STEPS),)}))
    with pytest.raises(ValidationError, match="a source twice"):
        ShardsConfig(repetition=(WEB, WEB))


def test_a_pass_of_the_curve_is_known_before_anything_is_read() -> None:
    plan = planned(
        CONFIG.model_copy(update={"repetition": (Repetition(source="a", curve=((0.0, 3.0),)),)}), {"a": 10, "b": 5}
    )
    assert (plan[0]["a"].tokens, plan[0]["b"].tokens) == (30, 5)
    assert Repetition(source="a", curve=STEPS).mean == pytest.approx(0.6 + 0.4)


curves = st.lists(
    st.tuples(st.integers(1, 99), st.integers(0, 28)), min_size=1, max_size=6, unique_by=lambda step: step[0]
)


@settings(max_examples=60, deadline=None)
@given(
    steps=curves,
    scores=st.lists(st.one_of(st.none(), st.floats(-50, 50, width=16)), min_size=1, max_size=60),
    data=st.data(),
)
def test_the_mean_holds_exactly_for_any_scores_and_better_never_hurts(steps, scores, data) -> None:
    curve = ((0.0, 1.0), *((quantile / 100, times / 4) for quantile, times in sorted(steps)))
    wanted = Repetition(source="web", curve=curve)
    values = np.array([np.nan if score is None else score for score in scores], np.float32)
    tokens = np.array(data.draw(st.lists(st.integers(1, 1000), min_size=len(scores), max_size=len(scores))))
    cut = data.draw(st.integers(0, len(scores)))
    whole = add_sketches([sketch(values, tokens)])
    parts = [sketch(values[cut:], tokens[cut:]), sketch(values[:cut], tokens[:cut])]
    assert add_sketches(parts).equals(whole), "the cut of the work cannot be seen"
    if np.isnan(values).all():
        return
    resolved = Curve.of(wanted, whole)
    assert Curve.from_dict(json.loads(json.dumps(resolved.as_dict()))) == resolved
    times = resolved.of_scores(values)
    assert (times * tokens).sum() == pytest.approx(wanted.mean * tokens.sum())
    assert resolved.least <= times.min() and times.max() <= resolved.most
    rising = [value for _, value in curve]
    if rising == sorted(rising):
        known = np.flatnonzero(~np.isnan(values))
        order = known[np.argsort(values[known], kind="stable")]
        assert (np.diff(times[order]) >= -1e-12).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2))
def test_bins_keep_the_order_of_all_numbers(values) -> None:
    ordered = np.sort(np.array(values, np.float32))
    assert (np.diff(score_bins(ordered)) >= 0).all()
    assert score_bins(np.array([-0.0], np.float32)) == score_bins(np.array([0.0], np.float32))


def test_fractions_are_met_on_average_and_copies_only_grow_with_the_rate() -> None:
    _, choice = ring_keys([number.to_bytes(16, "big") for number in range(20_000)], seed=3)
    rates = np.tile([0.25, 1.0, 2.5, 3.9], 5_000)
    taken = copies(choice, rates)
    assert taken.mean() == pytest.approx(rates.mean(), abs=0.02)
    assert (taken[rates == 1.0] == 1).all()
    assert (copies(choice, rates * 1.1) >= taken).all()
