"""Step ``verify``: nominated pairs are compared on their true shingles.

For each block: ``verify/<b>.edges`` holds (document, better document, similarity) of the pairs that reached the threshold,
ordered by document and then by how well the better one ranks; ``verify/<b>.into`` holds (better document, document), by
block of the better document, so that it can tell its fate to those that wait for it.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from pipeline.dedup import corpus as c
from pipeline.dedup.corpus import Corpus, corpus_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, gather_partition
from pipeline.dedup.flat import write_array
from pipeline.dedup.levels import partition_files
from pipeline.dedup.nominate import nominated_partitions

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
