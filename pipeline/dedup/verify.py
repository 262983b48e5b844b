"""Step ``verify``: nominated pairs are compared on their true shingles.

For each block: ``verify/<b>.edges`` holds (document, better document, similarity) of the pairs that reached the threshold,
ordered by document and then by how well the better one ranks (with those that share a key of another package's level, which
``verify/<b>.levels`` tells: document, better document, level); ``verify/<b>.into`` holds (better document, document), by
block of the better document, so that it can tell its fate to those that wait for it.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from pipeline.dedup import corpus as c
from pipeline.dedup.corpus import Corpus, corpus_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, gather_partition
from pipeline.dedup.flat import RangeReader, read_rows, write_array
from pipeline.dedup.levels import URL_MEASURE, partition_files
from pipeline.dedup.nominate import OWN, nominated_partitions
from pipeline.dedup.own import Level, levels_of

ENOUGH = 4
"""Comparisons stop when a document has so many verified betters: more would not change its fate but in odd cases."""


def verify_units(context: StageContext) -> Iterable[Unit]:
    partitions = nominated_partitions(context)
    if partitions:
        corpus = corpus_of(context.config, context.inputs, context.work_root)
        for block in range(corpus.blocks):
            yield Unit(unit_id("verify", block), {"block": block, "partitions": partitions})


def verify_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.dedup.similarity import similarities

    block = number_in(unit, "block")
    partitions = number_in(unit, "partitions")
    config = context.config
    corpus = corpus_of(config, context.inputs, context.work_root)
    files = partition_files(context.work_root, "nominate", "pairs", partitions)
    pairs = _distinct(gather_partition(files, block, 2))
    pairs = _by_rank(corpus, pairs)
    similarity = similarities(corpus, pairs, config.measure, config.threshold, config.budget, ENOUGH)
    same = similarity >= config.threshold
    edges = np.hstack([pairs[same], similarity[same].view(np.uint64)[:, None]])
    if config.levels:
        own = _own_edges(context, corpus, block, partitions, levels_of(config))
        edges = _joined(corpus, own[:, :3], edges)
        with context.intermediate(f"{block:05}.levels") as path, path.open("wb") as stream:
            write_array(own[:, [0, 1, 3]], stream)
    with context.intermediate(f"{block:05}.edges") as path, path.open("wb") as stream:
        write_array(edges, stream)
    with (
        context.intermediate(f"{block:05}.into") as path,
        ExchangeWriter(path, 2, corpus.blocks, config.budget // 4) as writer,
    ):
        told = edges[edges[:, 1] < corpus.new]  # documents of earlier runs stay: nobody waits for them
        writer.add(told[:, [1, 0]], corpus.block_of(told[:, 1]))
    context.metrics.update(block=float(block), pairs=float(len(pairs)), verified=float(len(edges)))
    return Counts()


def _own_edges(
    context: UnitContext, corpus: Corpus, block: int, partitions: int, levels: Mapping[int, Level]
) -> NDArray[np.uint64]:
    """Pairs of a block that share a key and are alike enough: document, better document, similarity, level; each pair once."""
    from pipeline.dedup.similarity import similarities

    pairs = gather_partition(partition_files(context.work_root, "nominate", "own", partitions), block, OWN)
    pairs = pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))]
    likeness = similarities(corpus, pairs[:, :2], URL_MEASURE, 0.0, context.config.budget)
    wanted = np.array([levels[int(level)].threshold for level in pairs[:, 2]])
    edges = np.column_stack([pairs[:, :2], likeness.view(np.uint64), pairs[:, 2]])[likeness >= wanted]
    first = np.ones(len(edges), np.bool_)
    first[1:] = (edges[1:, :2] != edges[:-1, :2]).any(axis=1)
    return edges[first]


def _joined(corpus: Corpus, own: NDArray[np.uint64], near: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """All edges of a block, each pair once, in the order of ``_by_rank``."""
    known = set(map(tuple, own[:, :2].tolist()))
    edges = np.concatenate([own, near[[tuple(pair) not in known for pair in near[:, :2].tolist()]]])
    return _by_rank(corpus, edges[np.lexsort((edges[:, 1], edges[:, 0]))])


def own_levels(work_root: str, block: int) -> dict[tuple[int, int], int]:
    """(document, better document) -> level, of the block's edges that come from other packages' levels."""
    with RangeReader(f"{work_root}/steps/verify/{block:05}.levels") as reader:
        rows = read_rows(reader, np.uint64, OWN, 0, reader.size // (8 * OWN)).tolist()
    return {(document, better): level for document, better, level in rows}


def _distinct(pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first = np.ones(len(ordered), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[first]


def _by_rank(corpus: Corpus, pairs: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each document's partners from the best to the worst."""
    partners, position = np.unique(pairs[:, 1], return_inverse=True)
    cards = corpus.cards(partners)
    order = np.lexsort((cards[position, c.RANK_B], cards[position, c.RANK_A], pairs[:, 0]))
    return pairs[order]
