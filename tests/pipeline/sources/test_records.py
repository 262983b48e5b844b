"""Cutting archives into records: damage costs one record, and parts together read each record once."""

import bz2
import gzip
import io
import itertools
import json
import lzma

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources import records as records_module
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


@pytest.mark.parametrize("padding", [b"\0", b"\0\0\r\n", b"\0" * 5_000])
def test_zeros_between_records_cost_none(padding: bytes) -> None:
    """Some writers end each record with one, and an uncompressed file has no members to find the next by."""
    found = cut(padding.join(RECORDS) + padding)
    assert [record.data for record in found] == [record.data for record in cut(b"".join(RECORDS))]
    assert not any(record.damage for record in found)


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


def test_a_plain_file_without_its_beginning_gives_the_rest() -> None:
    damages = [record.damage for record in cut(b"".join(RECORDS)[300:])]
    assert damages == ["corrupt"] + [""] * 11


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


def with_length(record: bytes, more: int) -> bytes:
    """The record with another number in its length field."""
    head, _, block = record.partition(b"\r\n\r\n")
    name, _, length = head.rpartition(b": ")
    return name + b": %d" % (int(length) + more) + b"\r\n\r\n" + block


@pytest.mark.parametrize("more", [-700, -1, 1, 3, 4, 5, 1_000, 10**6, 10**9, 10**12, len(RECORDS[6])])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("limit", [3_000, LIMIT])
def test_a_wrong_length_costs_its_own_record(more: int, packed: bool, limit: int) -> None:
    data = b"".join([*RECORDS[:5], with_length(RECORDS[5], more), *RECORDS[6:]])
    records = cut(gzip.compress(data) if packed else data, limit=limit)
    good = [record.data for record in records if not record.damage]
    expected = [record.data for record in cut(b"".join([*RECORDS[:5], *RECORDS[6:]]))]
    # A length that is too short, or wrong by less than the line ends, leaves a record that reads as one.
    assert [data for data in good if data in expected] == expected
    if more > 4:
        assert len(good) == len(expected)
        (lost,) = [record for record in records if record.damage]
        assert packed or (lost.offset, lost.length) == (len(b"".join(RECORDS[:5])), len(with_length(RECORDS[5], more)))


def test_a_swallowed_record_that_ends_where_one_begins_is_seen() -> None:
    record = with_length(RECORDS[3], len(RECORDS[4]))
    damages = [record.damage for record in cut(b"".join([*RECORDS[:3], record, *RECORDS[4:]]))]
    assert damages == [""] * 3 + ["corrupt"] + [""] * 8


def test_an_archive_within_a_record_is_its_content() -> None:
    inner = b"".join(RECORDS[:2])
    vouched = warc_record(body=inner, http=(("Content-Length", str(len(inner))),))
    assert [record.damage for record in cut(RECORDS[2] + vouched + RECORDS[3])] == [""] * 3
    large = cut(RECORDS[2] + vouched + RECORDS[3], limit=2_000)
    assert [record.damage for record in large] == ["", "too_large", ""]


def zstd_frames(records: list[bytes], dictionary: zstd.ZstdDict | None = None, checksum: int = 1) -> list[bytes]:
    options = {zstd.CompressionParameter.checksum_flag: checksum}
    return [zstd.compress(record, options=options, zstd_dict=dictionary) for record in records]


def test_zstd_is_read_frame_by_frame_with_and_without_a_dictionary() -> None:
    plain = b"".join(zstd_frames(RECORDS))
    dictionary = zstd.train_dict(RECORDS * 20, 8_192)
    content = zstd.compress(dictionary.dict_content)
    lead = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    packed = lead + b"".join(zstd_frames(RECORDS, dictionary))
    for data in (plain, packed):
        found = cut(data)
        assert [record.data for record in found] == [record.data for record in cut(b"".join(RECORDS))]
        assert all(record.checked and not record.damage for record in found)
        edges = [0, len(lead) + 5, len(data) // 2, len(data)]
        offsets = [record.offset for start, end in itertools.pairwise(edges) for record in cut(data, start, end)]
        assert offsets == [record.offset for record in found]
    assert not any(record.checked for record in cut(b"".join(zstd_frames(RECORDS, checksum=0))))


def test_a_damaged_zstd_frame_costs_itself() -> None:
    frames = zstd_frames(RECORDS)
    broken = bytearray(frames[5])
    broken[-20] ^= 0x10
    damages = [record.damage for record in cut(b"".join([*frames[:5], bytes(broken), *frames[6:]]))]
    assert damages == [""] * 5 + ["corrupt"] + [""] * 6
    assert [record.damage for record in cut(b"".join(frames)[:-7])] == [""] * 11 + ["truncated"]


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_other_compressions_are_read_too(pack) -> None:  # type: ignore[no-untyped-def]
    assert [record.data for record in cut(pack(b"".join(RECORDS)))] == [r.data for r in cut(b"".join(RECORDS))]


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_records_of_a_damaged_member_are_marked(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "HELD_BYTES", held)
    data = gzip.compress(b"".join(RECORDS))[:-3]
    assert [record.damage for record in cut(data)] == ["truncated"] * len(RECORDS)
    salvaged = read_records(io.BytesIO(data), 0, len(data), LIMIT, salvage=True)
    assert [record.damage for record in salvaged] == [""] * len(RECORDS)
    flipped = bytearray(gzip.compress(b"".join(RECORDS)))
    flipped[-6] ^= 1  # its checksum
    assert {record.damage for record in cut(bytes(flipped))} == {"corrupt"}


def arc_record(url: str, body: bytes, more: int = 0) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    return f"{url} 192.0.2.1 20080430204826 text/html {len(block) + more}\n".encode() + block + b"\n"


@pytest.mark.parametrize("more", [0, 100, 10**9])
def test_arc_records_with_odd_addresses_and_wrong_lengths(more: int) -> None:
    urls = ["http://a.org/", "HTTP://B.org/a b c.html", "http://c.org/", "http://d.org/"]
    data = b"".join(arc_record(url, b"<p>x</p>" * 50, more if n == 1 else 0) for n, url in enumerate(urls))
    assert [record.damage for record in cut(data)] == ["", "corrupt" if more else "", "", ""]
