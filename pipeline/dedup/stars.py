"""Grouping by key: every member of a group paired with the group's best.

Records are rows ``KEY, RANK_A, RANK_B, DOCUMENT, …``; those that share a key form a group. The ``centres`` best-ranked
members of a group are its centres, and, if some of those were kept by an earlier run, so many new ones more; every new
member is paired with each centre that ranks before it. A group of a million members so yields two million pairs, not
their square. A fifth column, ``CHECK``, must be equal too: more bits of the key.

A partition that exceeds the memory budget is cut by other bits of the key on the local disk; one that does not get
smaller by that is one giant group, and is read twice: once for its centres, once for the pairs.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.dedup.exchange import ExchangeWriter, Records, read_partition
from pipeline.kernels import kernel

_WAYS = 64
KEY, RANK_A, RANK_B, DOCUMENT, CHECK = range(5)


@dataclass(frozen=True)
class Stars:
    """How groups become pairs. Documents numbered below ``new`` are new; ``best_only`` gives each member one pair."""

    new: int
    centres: int
    best_only: bool
    budget: int
    least: int = 2
    """Smaller groups yield nothing."""


Source = Callable[[], Iterable[Records]]
"""Yields the records of a partition chunk by chunk, and can be asked again."""


def star_pairs(
    source: Source, size: int, width: int, rule: "Stars", scratch: Path, depth: int = 0
) -> Iterator[Records]:
    """Pairs of whole records: rows of ``[member, centre]``, ``width`` columns each. ``size`` is the source's bytes.

    Where a group is larger than the budget a pair may come twice.
    """
    if size <= rule.budget // 3:
        records = list(source())
        if records:
            yield from _pairs_of(np.concatenate(records), rule)
        return
    if depth >= 2:
        yield from _streamed(source, width, rule)
        return
    folder = scratch / f"cut-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        sizes = np.zeros(_WAYS, np.int64)
        with ExchangeWriter(folder / "part", width, _WAYS, rule.budget // 4) as writer:
            for chunk in source():
                ways = _way(chunk[:, KEY], depth)
                sizes += np.bincount(ways, minlength=_WAYS) * width * 8
                writer.add(chunk, ways)
        for way in range(_WAYS):
            if sizes[way]:
                part = partial(read_partition, [str(folder / "part")], way)
                yield from star_pairs(part, int(sizes[way]), width, rule, scratch, depth + 1)
    finally:
        shutil.rmtree(folder)


def _way(keys: NDArray[np.uint64], depth: int) -> NDArray[np.int64]:
    mixed = (keys ^ np.uint64(depth + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(58)).astype(np.int64)


def _streamed(source: Source, width: int, rule: Stars) -> Iterator[Records]:
    best = np.empty((0, width), np.uint64)
    sizes: Counter[int] = Counter()
    for chunk in source():
        if rule.least > 2:
            sizes.update(
                dict(zip(*(part.tolist() for part in np.unique(chunk[:, KEY], return_counts=True)), strict=True))
            )
        records = _by_key(np.concatenate([best, chunk]))
        best = records[_centre_mask(records, rule.new, rule.centres)]
    if rule.least > 2:
        best = best[[sizes[key] >= rule.least for key in best[:, KEY].tolist()]]
    for chunk in source():
        known = best[np.isin(best[:, KEY], chunk[:, KEY])]
        others = chunk[~_rows_in(chunk, known)]
        yield from _pairs_of(
            np.concatenate([known, others[np.isin(others[:, KEY], known[:, KEY])]]), replace(rule, least=2)
        )


def _rows_in(records: Records, known: Records) -> NDArray[np.bool_]:
    """Which records are among the few known ones."""
    found = np.zeros(len(records), np.bool_)
    for at in np.flatnonzero(np.isin(records[:, DOCUMENT], known[:, DOCUMENT])):
        found[at] = bool((known == records[at]).all(axis=1).any())
    return found


def _by_key(records: Records) -> Records:
    return records[np.argsort(records[:, KEY], kind="stable")]


def _shared(records: Records) -> Records:
    """The records without most of those that share their key with no other: they need no sorting."""
    keep = np.zeros(len(records), np.bool_)
    _mark_shared(records, np.zeros(1 << max(4, int(4 * len(records)).bit_length()), np.bool_), keep)
    return records[keep]


def _pairs_of(records: Records, rule: Stars) -> Iterator[Records]:
    ordered = _by_key(_shared(records))
    rows = max(1, rule.budget // (records.shape[1] * 8 * 8))
    begin = 0
    while begin < len(ordered):
        end = min(begin + rows, len(ordered))
        if end < len(ordered):
            end = int(np.searchsorted(ordered[:, KEY], ordered[end - 1, KEY], side="right"))
        members, partners = _star(ordered[begin:end], rule.new, rule.centres, rule.best_only, rule.least)
        for first in range(0, len(members), rows):
            part = slice(first, first + rows)
            yield np.hstack([ordered[begin + members[part]], ordered[begin + partners[part]]])
        begin = end


@kernel
def _mark_shared(records, first_seen, keep):  # type: ignore[no-untyped-def]
    """Mark the records that fall into one slot with another: first the later ones of each slot, then backwards the
    first. ``first_seen`` is a table of zeros, a power of two of slots."""
    shift = np.uint64(64)
    slots = len(first_seen)
    while slots > 1:
        slots //= 2
        shift -= np.uint64(1)
    for i in range(len(records)):
        slot = (records[i, KEY] * np.uint64(0x9E3779B97F4A7C15)) >> shift
        keep[i] = first_seen[slot]
        first_seen[slot] = True
    first_seen[:] = False
    for i in range(len(records) - 1, -1, -1):
        slot = (records[i, KEY] * np.uint64(0x9E3779B97F4A7C15)) >> shift
        keep[i] |= first_seen[slot]
        first_seen[slot] = True


@kernel
def _before(records, i, j):  # type: ignore[no-untyped-def]
    if records[i, RANK_A] != records[j, RANK_A]:
        return records[i, RANK_A] < records[j, RANK_A]
    if records[i, RANK_B] != records[j, RANK_B]:
        return records[i, RANK_B] < records[j, RANK_B]
    return records[i, DOCUMENT] < records[j, DOCUMENT]


@kernel
def _choose(records, begin, end, new, centres, chosen):  # type: ignore[no-untyped-def]
    """The ``centres`` best of a group, then further new ones until so many are new; how many in all."""
    found = _best_of(records, begin, end, 0, centres, chosen, 0)
    wanted = centres
    for k in range(found):
        wanted -= records[chosen[k], DOCUMENT] < new
    return _best_of(records, begin, end, new, wanted, chosen, found)


@kernel
def _best_of(records, begin, end, only_below, wanted, chosen, first):  # type: ignore[no-untyped-def]
    """Enter the ``wanted`` best at ``chosen[first:]``, in order, without those already there; where they end.

    ``only_below`` > 0 restricts the choice to documents numbered below it.
    """
    here = 0
    for i in range(begin, end):
        if wanted == 0 or (only_below > 0 and records[i, DOCUMENT] >= only_below):
            continue
        taken = False
        for known in range(first):
            taken = taken or chosen[known] == i
        if taken:
            continue
        at = first + here
        while at > first and _before(records, i, chosen[at - 1]):
            at -= 1
        if at >= first + wanted:
            continue
        here = min(here + 1, wanted)
        for move in range(first + here - 1, at, -1):
            chosen[move] = chosen[move - 1]
        chosen[at] = i
    return first + here


@kernel
def _centre_mask(records, new, centres):  # type: ignore[no-untyped-def]
    """Which of the records, sorted by key, are centres of their group."""
    mask = np.zeros(len(records), np.bool_)
    chosen = np.empty(2 * centres + 1, np.int64)
    begin = 0
    while begin < len(records):
        end = begin + 1
        while end < len(records) and records[end, KEY] == records[begin, KEY]:
            end += 1
        for k in range(_choose(records, begin, end, new, centres, chosen)):
            mask[chosen[k]] = True
        begin = end
    return mask


@kernel
def _star(records, new, centres, best_only, least):  # type: ignore[no-untyped-def]
    """Rows of members and of their partners, for records sorted by key."""
    checked = records.shape[1] > CHECK
    chosen = np.empty(2 * centres + 1, np.int64)
    room = 1024
    members = np.empty(room, np.int64)
    partners = np.empty(room, np.int64)
    pairs = 0
    begin = 0
    while begin < len(records):
        end = begin + 1
        while end < len(records) and records[end, KEY] == records[begin, KEY]:
            end += 1
        if end - begin >= least:
            number = _choose(records, begin, end, new, centres, chosen)
            for i in range(begin, end):
                if records[i, DOCUMENT] >= new:
                    continue
                for k in range(number):
                    j = chosen[k]
                    if j == i or not _before(records, j, i):
                        continue
                    if checked and records[j, CHECK] != records[i, CHECK]:
                        continue
                    if pairs == room:
                        room *= 2
                        wider = np.empty(room, np.int64)
                        wider[:pairs] = members
                        members = wider
                        wider = np.empty(room, np.int64)
                        wider[:pairs] = partners
                        partners = wider
                    members[pairs] = i
                    partners[pairs] = j
                    pairs += 1
                    if best_only:
                        break
        begin = end
    return members[:pairs], partners[:pairs]
