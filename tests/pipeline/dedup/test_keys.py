"""What counts as the same address and the same text, and the order of survivors."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.dedup import DedupConfig
from pipeline.dedup.policy import ranks
from pipeline.dedup.sign import exact_hashes
from pipeline.dedup.urls import normalise_url


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://www.Example.org/a/", "https://example.org/a", True),
        ("https://example.org:443/a#part", "https://example.org/a", True),
        ("https://example.org/?b=2&a=1&utm_source=x", "https://example.org?a=1&b=2", True),
        ("https://example.org/a?id=1", "https://example.org/a?id=2", False),
        ("https://example.org/article.pl?sid=1", "https://example.org/article.pl?sid=2", False),
        ("https://example.org/a?PHPSESSID=1", "https://example.org/a", True),
        ("https://example.org/A", "https://example.org/a", False),
        ("https://example.org/#!/one", "https://example.org/#!/two", False),
        ("https://example.org/#/one", "https://example.org/#/two", False),
        ("https://example.org/app#/one/", "https://example.org/app/#!/one", True),
        ("https://example.org/#/", "https://example.org/", True),
        ("https://example.org/a#section-2", "https://example.org/a#section-3", True),
        ("https://example.org/a#:~:text=river", "https://example.org/a", True),
        ("http://example.org:443/", "http://example.org/", False),
        ("http://example.org:8080/", "http://example.org/", False),
        ("http://example.org:80/", "https://example.org:443/", True),
        ("ftp://example.org/a", "http://example.org/a", False),
        ("https://example.org/caf%c3%a9", "https://example.org/café", True),
        ("https://example.org/%7Euser/%61", "https://example.org/~user/a", True),
        ("https://example.org/a%2Fb", "https://example.org/a/b", False),
        ("https://example.org/?q=a%20b", "https://example.org/?q=a+b", True),
        ("https://straße.example/", "https://xn--strae-oqa.example/", True),
        ("https://example.org/a/./b/../c", "https://example.org/a/c", True),
        ("https://example.org/a;jsessionid=A1B2?x=1", "https://example.org/a?x=1", True),
        ("https://example.org/?a=1&amp;b=2", "https://example.org/?a=1&b=2", True),
        ("https://example.org/?gclid=1&gbraid=2&mtm_source=3", "https://example.org/", True),
        ("https://example.org/?ref=1", "https://example.org/?ref=2", False),
        ("https://www.com/", "https://com/", False),
        ("https://user:pw@example.org/", "https://example.org/", True),
        ("not a url", "not a url", True),
        ("http://[broken", "http://[other", False),
    ],
)
def test_addresses(one: str, other: str, same: bool) -> None:
    assert (normalise_url(one) == normalise_url(other)) is same


def hashes(*texts: str) -> list[tuple[int, ...]]:
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in encoded])]).astype(np.int64)
    return [tuple(row) for row in exact_hashes(np.frombuffer(b"".join(encoded), np.uint8), offsets).tolist()]


def test_white_space_does_not_make_another_text_but_everything_else_does() -> None:
    a, b, c, d, e = hashes("One  two\n", " One two", "One\u00a0two", "one two", "One two.")
    assert a == b == c
    assert len({a, d, e}) == 3


def batch(**columns: list[object]) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    default: dict[str, list[object]] = {"source": ["web"] * rows, "quality": [None] * rows, "date": [None] * rows}
    types = {"source": pa.string(), "quality": pa.float32(), "date": pa.string()}
    arrays = {name: pa.array(columns.get(name, default[name]), types[name]) for name in default}
    return pa.RecordBatch.from_pydict(arrays)


def order(config: DedupConfig, part: pa.RecordBatch, lengths: list[int] | None = None) -> list[int]:
    rows = part.num_rows
    ids = np.zeros((rows, 2), np.uint64)
    found = ranks(config, part, ids, np.array(lengths or [1] * rows, np.uint64))
    return sorted(range(rows), key=lambda row: tuple(found[row].tolist()))


def test_quality_orders_as_floats_do() -> None:
    part = batch(quality=[0.5, -1.0, None, 0.50001, 0.0, float("nan"), -0.0, 2.0])
    assert order(DedupConfig(survivor=("quality",)), part) == [7, 3, 0, 4, 6, 1, 2, 5]


def test_dates_order_by_day_and_unknown_ones_come_last() -> None:
    part = batch(date=["2020-01-02", None, "1999-12-31T10:00:00Z", "soon", "2020-01-01"])
    assert order(DedupConfig(survivor=("date",)), part) == [2, 4, 0, 1, 3]


def test_criteria_apply_in_their_order() -> None:
    part = batch(source=["web", "wiki", "wiki"], quality=[0.9, 0.1, 0.2])
    config = DedupConfig(source_priority=("wiki",))
    assert order(config, part) == [2, 1, 0]
    assert order(DedupConfig(survivor=("length", "source"), source_priority=("wiki",)), part, [9, 5, 7]) == [0, 2, 1]


@given(st.text(max_size=60))
@example("\x1f#")
def test_a_key_is_its_own_key(text: str) -> None:
    key = normalise_url(f"http://example.org/{text}")
    if key.startswith("example.org"):
        assert normalise_url(f"http://{key}") == key
