"""Regrouping out of core: exchange files, flat arrays, groups larger than memory."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup.exchange import ExchangeWriter, gather_partition, partition_bytes, partitions_of
from pipeline.dedup.flat import RangeReader, read_ranges, read_rows
from pipeline.dedup.stars import DOCUMENT, Stars, star_pairs

Pairs = set[tuple[int, int]]


@pytest.mark.parametrize("budget", [1, 100, 1 << 20])
def test_an_exchange_file_gives_back_each_partition_in_order(tmp_path: Path, budget: int) -> None:
    rng = np.random.default_rng(1)
    records = rng.integers(0, 2**63, (1000, 3)).astype(np.uint64)
    partition = rng.integers(0, 7, 1000)
    with ExchangeWriter(tmp_path / "x", 3, 7, budget) as writer:
        for begin in range(0, 1000, 90):
            writer.add(records[begin : begin + 90], partition[begin : begin + 90])
    assert partitions_of(str(tmp_path / "x")) == 7
    for number in range(7):
        wanted = records[partition == number]
        assert (gather_partition([str(tmp_path / "x")], number, 3) == wanted).all()
        assert partition_bytes([str(tmp_path / "x")], number) == wanted.nbytes


def test_an_empty_exchange_file_has_empty_partitions(tmp_path: Path) -> None:
    with ExchangeWriter(tmp_path / "x", 4, 3):
        pass
    assert gather_partition([str(tmp_path / "x")], 2, 4).shape == (0, 4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 300)), min_size=1, max_size=40))
def test_ranges_are_read_whatever_lies_between(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("flat") / "flat"
    values = np.arange(101_000, dtype=np.uint32)
    values.tofile(path)
    begin = np.array(sorted(b for b, _ in ranges), np.int64)
    size = np.array([s for _, s in ranges], np.int64)
    with RangeReader(str(path)) as reader:
        found = read_ranges(reader, np.uint32, begin, size)
        assert (read_rows(reader, np.uint32, 10, 3, 5) == values[30:50].reshape(2, 10)).all()
        with pytest.raises(EOFError):
            reader.read(4 * 100_999, 100)
    assert found.tolist() == [v for b, s in zip(begin, size, strict=True) for v in range(b, b + s)]


def records_of(keys: list[int], ranks: list[int]) -> np.ndarray:
    columns = [np.array(keys), np.array(ranks), np.zeros(len(keys)), np.arange(len(keys))]
    return np.stack(columns, axis=1).astype(np.uint64)


def pairs_of(
    records: np.ndarray, folder: Path, budget: int, new: int, centres: int, best_only: bool, least: int = 2
) -> Pairs:
    chunks = 7

    def source() -> Iterator[np.ndarray]:
        yield from np.array_split(records, chunks)

    found = star_pairs(source, records.nbytes, 4, Stars(new, centres, best_only, budget, least), folder)
    return {(int(row[DOCUMENT]), int(row[4 + DOCUMENT])) for part in found for row in part}


def expected(records: np.ndarray, new: int, centres: int, best_only: bool, least: int) -> Pairs:
    groups: dict[int, list[tuple[int, int]]] = {}
    for key, rank, _, document in records.tolist():
        groups.setdefault(key, []).append((rank, document))
    pairs: Pairs = set()
    for group in groups.values():
        if len(group) < least:
            continue
        group.sort()
        best = group[:centres]
        further = centres - sum(entry[1] < new for entry in best)
        best += [entry for entry in group if entry[1] < new and entry not in best][:further]
        for entry in group:
            before = [other for other in best if other < entry] if entry[1] < new else []
            pairs |= {(entry[1], other[1]) for other in (before[:1] if best_only else before)}
    return pairs


@settings(max_examples=40, deadline=None)
@given(
    entries=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=60),
    old=st.integers(0, 10),
    centres=st.integers(1, 3),
    best_only=st.booleans(),
    budget=st.sampled_from([40, 400, 1 << 20]),
    least=st.integers(2, 4),
)
def test_every_member_meets_the_centres_of_its_group(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[int, int]],
    old: int,
    centres: int,
    best_only: bool,
    budget: int,
    least: int,
) -> None:
    """The same pairs whether a partition fits the budget, is cut, or is one giant group."""
    records = records_of([key * 2**55 for key, _ in entries], [rank for _, rank in entries])
    new = max(0, len(entries) - old)
    found = pairs_of(records, tmp_path_factory.mktemp("stars"), budget, new, centres, best_only, least)
    assert found == expected(records, new, centres, best_only, least)


def test_a_giant_group_makes_pairs_linear_in_its_size(tmp_path: Path) -> None:
    ranks = list(range(50_000))
    random.Random(1).shuffle(ranks)
    records = records_of([7] * 50_000, ranks)
    for budget in (1 << 30, 200_000):
        pairs = pairs_of(records, tmp_path, budget, 50_000, 2, False)
        assert len(pairs) == 2 * 50_000 - 3
