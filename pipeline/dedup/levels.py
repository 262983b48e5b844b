"""Steps ``urls`` and ``copies``: documents with an address, then with a text, that another one has.

Both group keyed records by partition of their hash. An address is not enough: a page that only shares its address with a
better one (an application's views, a front page months later) stays. What is unlike the best of its group is compared with
the best of those that are left, ``LEADERS`` times, so that what stays under one address is unlike each other.

The levels follow one another: what shares its URL with a better
document takes no part in the comparison of texts. Each dropped document becomes a *follower* of the one it was dropped
for; if that one is dropped at the next level in turn, its followers are handed on, so that in the end every dropped
document names one that is kept.

Files: ``urls/<p>.gone`` (document, by partition of its text's hash), ``urls/<p>.follow`` (document, target, by partition
of the target's text hash); ``copies/<p>.gone`` (document, by block), ``copies/<p>.follow`` (document, target, level,
by block of the target).
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from infra.store.files import exists
from pipeline.dedup.config import EXACT, URL
from pipeline.dedup.corpus import Corpus, corpus_of, files_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, gather_partition, partition_bytes, partitions_of, read_partition
from pipeline.dedup.sign import KEYED, keyed_file, partition_of

LEADERS = 8
"""So many unlike documents of one address are compared with all others of it."""
URL_MEASURE = "containment"
"""A page grows and loses parts under its address: what is left of it is the same page."""

_DOCUMENT, _TEXT = 3, 5
"""Columns of a keyed record."""


def key_partition_units(context: StageContext, step: str, files: list[str]) -> Iterable[Unit]:
    """One unit for each partition of the exchange files an earlier step wrote."""
    if not files:
        return
    for partition in range(partitions_of(files[0])):
        yield Unit(unit_id(step, partition), {"partition": partition})


def url_units(context: StageContext) -> Iterable[Unit]:
    if context.config.url:
        yield from key_partition_units(context, "urls", files_of(context, "sign", ".url"))


def copy_units(context: StageContext) -> Iterable[Unit]:
    yield from key_partition_units(context, "copies", files_of(context, "sign", ".exact"))


def keyed_files(corpus: Corpus, work_root: str, level: str) -> list[str]:
    """The records of all pieces whose texts could be read."""
    return [file for piece in corpus.pieces if exists(file := keyed_file(work_root, level, piece))]


def partition_files(work_root: str, step: str, kind: str, partitions: int) -> list[str]:
    return [file for number in range(partitions) if exists(file := f"{work_root}/steps/{step}/{number:05}.{kind}")]


def url_unit(unit: Unit, context: UnitContext) -> Counts:
    number = number_in(unit, "partition")
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    files = keyed_files(corpus, context.work_root, "url")
    partitions = partitions_of(files[0])
    with (
        context.intermediate(f"{number:05}.gone") as gone_path,
        context.intermediate(f"{number:05}.follow") as follow_path,
        ExchangeWriter(gone_path, 1, partitions, context.config.budget // 8) as gone,
        ExchangeWriter(follow_path, 2, partitions, context.config.budget // 8) as follow,
    ):
        for pairs in _alike_pairs(files, number, corpus, context):
            dropped, target = pairs[:, _DOCUMENT], pairs[:, KEYED + _DOCUMENT]
            gone.add(dropped[:, None], partition_of(pairs[:, _TEXT], partitions))
            follow.add(np.stack([dropped, target], axis=1), partition_of(pairs[:, KEYED + _TEXT], partitions))
    return Counts()


def _alike_pairs(files: list[str], number: int, corpus: Corpus, context: UnitContext) -> Iterator[NDArray[np.uint64]]:
    """Documents of one address and the better one of it that they are like."""
    from pipeline.dedup.similarity import similarities

    config = context.config
    settled = np.empty(0, np.uint64)
    for _ in range(LEADERS):
        decided, unlike = [settled], 0
        for pairs in _best_pairs(files, number, corpus.new, context, settled):
            pairs = pairs[np.argsort(pairs[:, KEYED + _DOCUMENT], kind="stable")]
            likeness = similarities(
                corpus, pairs[:, [KEYED + _DOCUMENT, _DOCUMENT]], URL_MEASURE, config.url_threshold, config.budget
            )
            alike = likeness >= config.url_threshold
            unlike += int((~alike).sum())
            decided += [pairs[alike, _DOCUMENT], pairs[:, KEYED + _DOCUMENT]]
            if alike.any():
                yield pairs[alike]
        settled = np.unique(np.concatenate(decided))
        if not unlike:
            break


def copy_unit(unit: Unit, context: UnitContext) -> Counts:
    number = number_in(unit, "partition")
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    files = keyed_files(corpus, context.work_root, "exact")
    partitions = partitions_of(files[0])
    gone_before = np.unique(_addressed(context, "gone", number, partitions, 1)[:, 0])
    following = _addressed(context, "follow", number, partitions, 2)
    following = following[np.argsort(following[:, 1], kind="stable")]
    with (
        context.intermediate(f"{number:05}.gone") as gone_path,
        context.intermediate(f"{number:05}.follow") as follow_path,
        ExchangeWriter(gone_path, 1, corpus.all_blocks, context.config.budget // 8) as gone,
        ExchangeWriter(follow_path, 3, corpus.all_blocks, context.config.budget // 8) as follow,
    ):
        gone.add(gone_before[:, None], corpus.block_of(gone_before))
        if context.config.exact:
            for pairs in _best_pairs(files, number, corpus.new, context, gone_before):
                dropped, target = pairs[:, _DOCUMENT], pairs[:, KEYED + _DOCUMENT]
                gone.add(dropped[:, None], corpus.block_of(dropped))
                _follow(corpus, follow, dropped, target, EXACT)
                following = _redirect(following, dropped, target)
        _follow(corpus, follow, following[:, 0], following[:, 1], URL)
    return Counts()


def _addressed(context: UnitContext, kind: str, number: int, partitions: int, width: int) -> NDArray[np.uint64]:
    files = partition_files(context.work_root, "urls", kind, partitions) if context.config.url else []
    return gather_partition(files, number, width)


def _best_pairs(
    files: list[str], number: int, new: int, context: UnitContext, without: NDArray[np.uint64] | None = None
) -> Iterator[NDArray[np.uint64]]:
    from pipeline.dedup.stars import Stars, star_pairs

    def source() -> Iterator[NDArray[np.uint64]]:
        for chunk in read_partition(files, number):
            yield chunk if without is None else chunk[~_contains(without, chunk[:, _DOCUMENT])]

    rule = Stars(new, 1, True, context.config.budget)
    yield from star_pairs(source, partition_bytes(files, number), KEYED, rule, context.scratch)


def _contains(ordered: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if len(ordered) == 0:
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[at] == values)


def _redirect(
    following: NDArray[np.uint64], dropped: NDArray[np.uint64], target: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Followers of documents that were dropped now follow those documents' targets."""
    order = np.argsort(dropped, kind="stable")
    dropped, target = dropped[order], target[order]
    hit = _contains(dropped, following[:, 1])
    moved = following.copy()
    moved[hit, 1] = target[np.searchsorted(dropped, following[hit, 1])]
    return moved


def _follow(
    corpus: Corpus, writer: ExchangeWriter, document: NDArray[np.uint64], target: NDArray[np.uint64], level: int
) -> None:
    levels = np.full(len(document), level, np.uint64)
    writer.add(np.stack([document, target, levels], axis=1), corpus.block_of(target))


def gone_documents(context: UnitContext, blocks: range, partitions: int) -> NDArray[np.uint64]:
    """Documents of these blocks that a level before the near one dropped, ascending."""
    files = partition_files(context.work_root, "copies", "gone", partitions)
    found = [chunk[:, 0] for block in blocks for chunk in read_partition(files, block)]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.uint64)
