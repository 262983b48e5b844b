"""Cutting archives into records: damage costs one record, and parts together read each record once."""

import gzip
import io
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.records import NotAnArchive, RawRecord, read_records
from tests.pipeline.sources.archives import gzip_members, numbered_records, warc_record
from tests.support import shared_data

RECORDS = numbered_records(12)
LIMIT = 10_000_000


def cut(data: bytes, start: int = 0, end: int | None = None, limit: int = LIMIT) -> list[RawRecord]:
    return list(read_records(io.BytesIO(data), start, len(data) if end is None else end, limit))


def test_each_record_lies_where_it_says() -> None:
    data = b"".join(gzip_members(RECORDS))
    for record, expected in zip(cut(data), RECORDS, strict=True):
        stored = data[record.offset : record.offset + record.length]
        assert gzip.decompress(stored) == expected
        assert expected.startswith(record.data)
        assert record.checked


def test_an_uncompressed_file_gives_the_same_records() -> None:
    plain = cut(b"".join(RECORDS))
    packed = cut(b"".join(gzip_members(RECORDS)))
    assert [record.data for record in plain] == [record.data for record in packed]
    assert not any(record.damage or record.checked for record in plain)


def test_a_file_in_one_gzip_member_gives_the_same_records() -> None:
    whole = cut(gzip.compress(b"".join(RECORDS)))
    assert [record.data for record in whole] == [record.data for record in cut(b"".join(RECORDS))]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4000), max_size=6))
def test_parts_together_read_each_record_once(cuts: list[int]) -> None:
    data = b"".join(gzip_members(RECORDS))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    offsets = [record.offset for start, end in itertools.pairwise(edges) for record in cut(data, start, end)]
    assert offsets == [record.offset for record in cut(data)]


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_a_broken_member_costs_itself_only(position: float) -> None:
    members = gzip_members(RECORDS)
    broken = bytearray(members[5])
    broken[int(len(broken) * position)] ^= 0xFF
    records = cut(b"".join([*members[:5], bytes(broken), *members[6:]]))
    good = [record.data for record in records if not record.damage]
    assert len([record for record in records if record.damage]) == 1
    assert good == [record.data for record in cut(b"".join([*members[:5], *members[6:]]))]


def test_rubbish_between_members_is_one_corrupt_record() -> None:
    members = gzip_members(RECORDS)
    records = cut(b"".join([*members[:3], b"not gzip at all" * 20, *members[3:]]))
    assert [record.damage for record in records] == [""] * 3 + ["corrupt"] + [""] * 9


def test_zero_padding_between_members_is_no_record() -> None:
    members = gzip_members(RECORDS)
    assert len(cut(b"".join([*members[:3], b"\0" * 512, *members[3:]]))) == len(RECORDS)


@pytest.mark.parametrize("lost", [1, 9, 200])
def test_a_cut_file_is_noticed_at_its_last_record(lost: int) -> None:
    data = b"".join(gzip_members(RECORDS))[:-lost]
    records = cut(data)
    assert [record.damage for record in records] == [""] * 11 + ["truncated"]
    assert records[-1].offset + records[-1].length == len(data)


def test_a_cut_uncompressed_file_is_noticed() -> None:
    assert [record.damage for record in cut(b"".join(RECORDS)[:-100])] == [""] * 11 + ["truncated"]


def test_a_broken_header_in_an_uncompressed_file_costs_one_record() -> None:
    broken = (
        RECORDS[4].replace(b"Content-Length", b"Content-Lemgth", 1).replace(b"\r\nContent-Length", b"\r\nX-Length", 1)
    )
    damages = [record.damage for record in cut(b"".join([*RECORDS[:4], broken, *RECORDS[5:]]))]
    assert damages == [""] * 4 + ["corrupt"] + [""] * 7


def test_a_huge_record_is_not_held_in_memory() -> None:
    big = warc_record("http://example.org/big", b"x" * 200_000)
    data = b"".join(gzip_members([RECORDS[0], big, RECORDS[1]]))
    records = cut(data, limit=50_000)
    assert [record.damage for record in records] == ["", "too_large", ""]
    assert len(records[1].data) < 1000


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"<html>", gzip.compress(b"<html>", mtime=0), b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(NotAnArchive):
        cut(data)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.booleans(),
)
def test_mutated_archives_never_break_the_reader(mutations: list[tuple[float, bytes]], packed: bool) -> None:
    data = bytearray(b"".join(gzip_members(RECORDS) if packed else RECORDS))
    for place, replacement in mutations:
        at = int(place * len(data))
        data[at : at + len(replacement)] = replacement
    try:
        records = cut(bytes(data))
    except NotAnArchive:
        return
    assert all(record.offset >= 0 and record.offset + record.length <= len(data) for record in records)
    good = sum(not record.damage for record in records)
    # Each mutation touches at most two neighbours; in an uncompressed file a changed length can swallow more.
    assert good >= (len(RECORDS) - 2 * len(mutations) if packed else 0)


def test_offsets_agree_with_an_index_made_by_another_program() -> None:
    manifest = [json.loads(line) for line in shared_data("web/pages.manifest.jsonl").read_text().splitlines()]
    with shared_data("web/pages.warc.gz").open("rb") as stream:
        found = [(record.offset, record.length) for record in read_records(stream, 0, 3_000_000, LIMIT)]
    assert found == [(row["offset"], row["length"]) for row in manifest if row["offset"] < 3_000_000]
