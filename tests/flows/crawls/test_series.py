"""Which crawls are started, by whom, and how often: once. No server is needed to decide that."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.crawls.backfill import plan_backfill
from flows.crawls.series import Series, Started, select
from infra.errors import ConfigError
from infra.store.store import Store

LISTED = ["C5", "C4", "C3", "C2", "C1"]


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return Series(Store.at(tmp_path), "monthly")


def start(series: Series, crawl: str, by: str = "watch") -> None:
    series.claim(crawl, by)
    series.note_start(crawl, Started(f"run-of-{crawl}", 1))


@pytest.mark.parametrize(("first", "new"), [("newest", ["C5"]), ("none", []), ("all", ["C1", "C2", "C3", "C4", "C5"])])
def test_the_first_watch_starts_what_it_is_told(series: Series, first: str, new: list[str]) -> None:
    assert series.new_crawls(LISTED, first) == new
    assert series.new_crawls(LISTED, "all") == new, "the first watch's word holds"


def test_an_empty_list_does_not_make_everything_new(series: Series) -> None:
    assert series.new_crawls([], "newest") == []
    assert series.new_crawls(LISTED, "newest") == ["C5"]


def test_each_new_crawl_is_started_once_also_after_a_long_pause(series: Series) -> None:
    for crawl in series.new_crawls(LISTED[2:], "newest"):
        start(series, crawl)
    assert series.new_crawls(LISTED[2:], "newest") == []
    later = series.new_crawls(LISTED, "newest")
    assert later == ["C4", "C5"], "oldest first"
    for crawl in later:
        start(series, crawl)
    assert series.new_crawls(LISTED, "newest") == []
    assert series.new_crawls([], "newest") == []


def test_a_start_that_was_broken_off_is_taken_up_with_the_same_key(series: Series) -> None:
    assert series.new_crawls(LISTED, "newest") == ["C5"]
    key = series.claim("C5", "watch")  # and killed here, before its run was on record
    assert series.new_crawls(LISTED, "newest") == ["C5"]
    assert series.claim("C5", "watch") == key


def test_a_crawl_run_by_hand_is_not_started_again(series: Series) -> None:
    assert series.new_crawls(LISTED[1:], "newest") == ["C4"]
    series.claim("C5", "run")
    assert series.new_crawls(LISTED, "newest") == ["C4"]


def test_a_run_that_began_before_its_start_was_on_record_is_not_started_again(series: Series) -> None:
    assert series.new_crawls(LISTED, "newest") == ["C5"]
    series.claim("C5", "watch")  # the watch was killed between creating the run and writing it down
    series.record_base("C5")  # the run's turn came
    assert series.new_crawls(LISTED, "newest") == []


def test_watches_at_the_same_time_agree_on_the_key(series: Series) -> None:
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(series.claim("C1", "watch"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_two_recipes_have_series_of_their_own(series: Series) -> None:
    start(series, "C5")
    assert Series(series.store, "other").new_crawls(LISTED, "newest") == ["C5"]


# ---- backfill --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("C2..C4", ["C2", "C3", "C4"]),
        ("C4..C2", ["C2", "C3", "C4"]),
        ("C3", ["C3"]),
        ("C5, C1", ["C1", "C5"]),
        ("C1..C2,C2..C3,C1", ["C1", "C2", "C3"]),
    ],
)
def test_ranges_are_inclusive_and_oldest_first(wanted: str, chosen: list[str]) -> None:
    assert select(LISTED, wanted) == chosen


@given(st.integers(1, 40), st.data())
def test_a_range_is_what_lies_between_in_the_order_of_the_list(size: int, data: st.DataObject) -> None:
    listed = [f"X{n}" for n in range(size, 0, -1)]
    low, high = sorted(data.draw(st.tuples(st.integers(1, size), st.integers(1, size))))
    assert select(listed, f"X{low}..X{high}") == [f"X{n}" for n in range(low, high + 1)]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [("C9", "the list of crawls has no 'C9'"), ("C1..", "names no range"), (" , ", "no crawl is named")],
)
def test_what_is_not_in_the_list_is_one_sentence(wanted: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        select(LISTED, wanted)


def test_backfill_starts_what_is_missing_and_says_why_it_leaves_the_rest(series: Series) -> None:
    for crawl in ("C1", "C2", "C3"):
        start(series, crawl, "backfill")
    series.record_base("C1")
    series.note_dataset("C1", "shards", "f")
    states = {"run-of-C2": "Failed", "run-of-C3": "Running"}
    plan = plan_backfill(series, ["C1", "C2", "C3", "C4"], again=False, state_of=states.__getitem__)
    assert [entry.action for entry in plan] == ["skip", "skip", "skip", "start"]
    assert "its shards are published" in plan[0].reason
    assert "(Failed); --again" in plan[1].reason
    again = plan_backfill(series, ["C1", "C2", "C3", "C4"], again=True, state_of=states.__getitem__)
    assert [entry.action for entry in again] == ["skip", "start", "skip", "start"]


def test_a_backfill_without_a_server_goes_on_where_it_was_broken_off(series: Series) -> None:
    for crawl in ("C1", "C2"):
        series.claim(crawl, "run")
        series.record_base(crawl)
    series.note_dataset("C1", "shards", "f")
    crawls = ["C1", "C2", "C3"]
    here = plan_backfill(series, crawls, again=False, state_of=str, here=True)
    assert [entry.action for entry in here] == ["skip", "start", "start"]
    assert here[1].reason == "begun, and not published"
    on_server = plan_backfill(series, crawls, again=False, state_of=str)
    assert [entry.action for entry in on_server] == ["skip", "skip", "start"]
