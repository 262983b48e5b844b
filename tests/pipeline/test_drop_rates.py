"""Drop rates by source, and when they have moved."""

from infra.stage import Counts, Receipt
from infra.store.files import OutputFile
from pipeline.drop_rates import counts_by_source, drop_rate_changes


def receipt(unit, source, counts):
    outputs = (
        OutputFile(f"data/{source}/{unit}.parquet", 1, "d"),
        OutputFile(f"ledger/{source}/{unit}.parquet", 1, "d"),
    )
    return Receipt(unit, "select", outputs, counts)


def stats(**sources):
    return {
        "by_source": counts_by_source(
            receipt("u", source, Counts(incoming, incoming - sum(dropped.values()), dropped))
            for source, (incoming, dropped) in sources.items()
        )
    }


def test_counts_are_added_up_by_source():
    found = counts_by_source(
        [
            receipt("a", "web", Counts(10, 7, {"x": 2}, 1)),
            receipt("b", "web", Counts(5, 5)),
            receipt("c", "code", Counts(1, 0, {"y": 1})),
        ]
    )
    assert found == {
        "code": {"incoming": 1, "kept": 0, "dropped": {"y": 1}, "failed": 0},
        "web": {"incoming": 15, "kept": 12, "dropped": {"x": 2}, "failed": 1},
    }


def test_a_rule_that_drops_much_more_or_less_is_named_largest_first():
    before = stats(web=(1000, {"language": 300, "words": 100, "new_lines": 10}))
    now = stats(web=(2000, {"language": 620, "words": 400, "bullets": 500, "new_lines": 20}))
    changes = drop_rate_changes(before, now, tolerance=0.05)
    assert [(change.rule, change.before, change.now) for change in changes] == [
        ("bullets", 0, 0.25),
        ("words", 0.1, 0.2),
    ]
    assert str(changes[1]) == "web: words drops 20.0% of the documents, 10.0% before"


def test_new_sources_say_nothing():
    now = stats(wiki=(1000, {"words": 900}), empty=(0, {}))
    assert drop_rate_changes(stats(code=(1000, {}), empty=(0, {})), now) == []
    assert drop_rate_changes({}, now) == []


def test_few_documents_must_move_beyond_chance():
    before = stats(web=(50, {"words": 5}))
    assert drop_rate_changes(before, stats(web=(50, {"words": 12}))) == []
    assert [change.now for change in drop_rate_changes(before, stats(web=(50, {"words": 40})))] == [0.8]
    assert drop_rate_changes(stats(web=(3, {})), stats(web=(3, {"words": 1}))) == []
