"""Step ``fates``: every dropped document gets the document that stays in its place.

For each block, the near duplicates among its documents, and the followers of its documents: those dropped for their URL or
text. If the followed document is a near duplicate in turn, its followers pass to its survivor. ``fates/<b>.fates``
holds (document, survivor, similarity, level), by block of the document, ``fates/<b>.survivors`` the survivors among the
new documents, by their block.

A follower by text is as similar to the survivor as the document it copies; a follower by URL is compared with it here: the
survivor may be another one than it was found alike to.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from pipeline.dedup.config import EXACT, NEAR, URL
from pipeline.dedup.corpus import Corpus, CorpusFile, corpus_of, files_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, gather_partition, read_partition
from pipeline.dedup.levels import URL_MEASURE, partition_files
from pipeline.dedup.settle import DROPPED, load_state
from pipeline.dedup.verify import own_levels

FATE = 4


def fate_units(context: StageContext) -> Iterable[Unit]:
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    copies = len(files_of(context, "copies", ".follow"))
    for block in range(corpus.all_blocks):
        yield Unit(unit_id("fates", block), {"block": block, "copies": copies})


def fate_unit(unit: Unit, context: UnitContext) -> Counts:
    block, copies = number_in(unit, "block"), number_in(unit, "copies")
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    dropped, survivor, score, level = _near(context, block, corpus.blocks)
    with (
        context.intermediate(f"{block:05}.fates") as path,
        context.intermediate(f"{block:05}.survivors") as survivors_path,
        ExchangeWriter(path, FATE, corpus.blocks, context.config.budget // 4) as writer,
        ExchangeWriter(survivors_path, 1, corpus.blocks, context.config.budget // 4) as survivors,
    ):
        _write(corpus, writer, dropped, survivor, score, level)
        _mark(corpus, survivors, survivor)
        for chunk in read_partition(partition_files(context.work_root, "copies", "follow", copies), block):
            target, similarity = chunk[:, 1].copy(), np.ones(len(chunk))
            if len(dropped):
                at = np.minimum(np.searchsorted(dropped, target), len(dropped) - 1)
                moved = dropped[at] == target
                target[moved], similarity[moved] = survivor[at[moved]], score[at[moved]]
            _compare_urls(context, chunk[:, 0], target, similarity, chunk[:, 2])
            _write(corpus, writer, chunk[:, 0], target, similarity, chunk[:, 2])
            _mark(corpus, survivors, target)
    return Counts()


def _mark(corpus: Corpus, writer: ExchangeWriter, survivors: NDArray[np.uint64]) -> None:
    named = np.unique(survivors[survivors < corpus.new])
    writer.add(named[:, None], corpus.block_of(named))


def _near(
    context: UnitContext, block: int, blocks: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float64], NDArray[np.uint64]]:
    """Document, survivor, similarity and level of what was dropped in favour of a verified better one."""
    if not (context.config.near or context.config.levels) or block >= blocks:
        return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0), np.empty(0, np.uint64)
    state = load_state(context.work_root, block)
    out = state.state == DROPPED
    documents, survivor = state.documents[out], state.survivor[out]
    level = np.full(len(documents), NEAR, np.uint64)
    if context.config.levels:
        levels = own_levels(context.work_root, block)
        pairs = zip(documents.tolist(), survivor.tolist(), strict=True)
        level = np.array([levels.get(pair, NEAR) for pair in pairs], np.uint64)
    return documents, survivor, state.score[out], level


def _compare_urls(
    context: UnitContext,
    documents: NDArray[np.uint64],
    target: NDArray[np.uint64],
    similarity: NDArray[np.float64],
    level: NDArray[np.uint64],
) -> None:
    from pipeline.dedup.similarity import similarities

    by_url = np.flatnonzero(level == URL)
    if len(by_url) == 0:
        return
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    pairs = np.stack([target[by_url], documents[by_url]], axis=1)
    order = np.argsort(pairs[:, 0], kind="stable")
    found = similarities(corpus, pairs[order], URL_MEASURE, 0.0, context.config.budget)
    similarity[by_url[order]] = found


def _write(
    corpus: Corpus,
    writer: ExchangeWriter,
    document: NDArray[np.uint64],
    survivor: NDArray[np.uint64],
    score: NDArray[np.float64],
    level: NDArray[np.uint64],
) -> None:
    rows = np.stack([document, survivor, np.ascontiguousarray(score).view(np.uint64), level], axis=1)
    writer.add(rows, corpus.block_of(document))


def fates_of(context: UnitContext, begin: int, end: int, blocks: range, files: int) -> NDArray[np.uint64]:
    """The fates of dropped documents ``begin:end``, by document."""
    paths = partition_files(context.work_root, "fates", "fates", files)
    parts = []
    for block in blocks:
        rows = gather_partition(paths, block, FATE)
        rows = rows[(rows[:, 0] >= begin) & (rows[:, 0] < end)]
        _, first = np.unique(rows[:, 0], return_index=True)
        parts.append(rows[first])
    return np.concatenate(parts) if parts else np.empty((0, FATE), np.uint64)


def dropped_rows(context: UnitContext, corpus: Corpus, piece: CorpusFile, files: int) -> NDArray[np.bool_]:
    """Which documents of a piece were dropped."""
    fates = fates_of(context, piece.base, piece.base + piece.rows, corpus.blocks_of(piece), files)
    dropped = np.zeros(piece.rows, np.bool_)
    dropped[(fates[:, 0] - np.uint64(piece.base)).astype(np.int64)] = True
    return dropped


RULES = {URL: "url_duplicate", EXACT: "exact_duplicate", NEAR: "near_duplicate"}
"""The ledger's name of each level."""
