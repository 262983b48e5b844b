"""Steps ``bands`` and ``nominate``: pairs that may be near duplicates.

``bands`` turns the signatures of every document still in the comparison into one key a band, by partition of the key;
``nominate`` groups them and writes each member of a group with the group's centres: ``nominate/<p>.pairs`` holds
(document, better document), by block of the document. A pair that meets in several bands comes several times.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.stage import Counts, StageContext, Unit, UnitContext, unit_id
from infra.store.files import exists
from pipeline.dedup import corpus as c
from pipeline.dedup.config import NEAR
from pipeline.dedup.corpus import Corpus, CorpusFile, corpus_of, files_of, number_in
from pipeline.dedup.exchange import ExchangeWriter, partition_bytes, partitions_of, read_partition
from pipeline.dedup.flat import RangeReader, read_rows
from pipeline.dedup.levels import gone_documents, key_partition_units
from pipeline.dedup.sign import DOCUMENT, KEYED, LEVEL, key_partitions, keyed_file, partition_of

if TYPE_CHECKING:
    from pipeline.dedup.stars import Stars

OWN = 3
"""Width of a pair by a key of another package: document, better document, level."""
BANDED = 4
"""Width of a band record: key, rank in two words, document (where a keyed one has it)."""
CENTRES = 2
"""Centres of a group: the second one pairs members that resemble each other but not the best of their group."""
_ROWS = 1 << 14


def band_units(context: StageContext) -> Iterable[Unit]:
    if not (context.config.near or context.config.levels):
        return
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    bands, _ = context.config.shape
    partitions = key_partitions(context.config, corpus.total * bands * BANDED * 8)
    copies = len(files_of(context, "copies", ".gone"))
    signed = set(files_of(context, "sign", ".exact"))
    for piece in corpus.pieces:
        if keyed_file(context.work_root, "exact", piece) in signed:
            payload = {"piece": piece.name, "snapshot": piece.snapshot, "partitions": partitions, "copies": copies}
            yield Unit(unit_id("bands", piece.snapshot, piece.name), payload, weight=piece.rows)


def band_file(work_root: str, piece: CorpusFile) -> str:
    return keyed_file(work_root, "bands", piece).replace("/steps/sign/", "/steps/bands/")


def own_file(work_root: str, piece: CorpusFile) -> str:
    return band_file(work_root, piece).removesuffix(".bands") + ".own"


def band_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.dedup.minhash import band_keys

    corpus = corpus_of(context.config, context.inputs, context.work_root)
    piece = corpus.piece_of(unit)
    partitions = number_in(unit, "partitions")
    blocks = corpus.blocks_of(piece)
    gone = gone_documents(context, blocks, number_in(unit, "copies"))
    bands, rows = context.config.shape
    relative = band_file("", piece).removeprefix("/steps/bands/")
    if context.config.levels and (piece.snapshot is None or any(piece.levels)):
        _own_records(piece, gone, partitions, context)
    with (
        context.intermediate(relative) as path,
        ExchangeWriter(path, BANDED, partitions, context.config.budget // 2) as writer,
    ):
        for documents, cards, signatures in _remaining(piece, gone, bands * rows) if context.config.near else ():
            keys = np.empty((len(cards), bands), np.uint64)
            band_keys(signatures, cards[:, c.GROUP].copy(), rows, keys)
            rank_a, rank_b, number = (
                np.repeat(column, bands) for column in (cards[:, c.RANK_A], cards[:, c.RANK_B], documents)
            )
            records = np.stack([keys.ravel(), rank_a, rank_b, number], axis=1)
            writer.add(records, partition_of(records[:, 0], partitions))
    return Counts()


def _own_records(piece: CorpusFile, gone: NDArray[np.uint64], partitions: int, context: UnitContext) -> None:
    """What other packages' levels go by, of the documents still in the comparison, by partition of the key."""
    relative = own_file("", piece).removeprefix("/steps/bands/")
    with (
        RangeReader(f"{piece.arrays}.own") as reader,
        context.intermediate(relative) as path,
        ExchangeWriter(path, KEYED, partitions, context.config.budget // 4) as writer,
    ):
        rows = reader.size // (8 * KEYED)
        for begin in range(0, rows, _ROWS):
            records = read_rows(reader, np.uint64, KEYED, begin, min(begin + _ROWS, rows)).astype(np.uint64, copy=False)
            if piece.snapshot is not None:  # an index numbers documents and levels by itself
                records[:, DOCUMENT] += np.uint64(piece.base)
                here = np.array(piece.levels, np.uint64)
                records[:, LEVEL] = here[(records[:, LEVEL] - np.uint64(NEAR + 1)).astype(np.int64)]
                records = records[records[:, LEVEL] > 0]
            records = records[~np.isin(records[:, DOCUMENT], gone)]
            writer.add(records, partition_of(records[:, 0], partitions))


def _remaining(
    piece: CorpusFile, gone: NDArray[np.uint64], permutations: int
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]]:
    """Documents, cards and signatures of those that have words and were not dropped yet."""
    with (
        RangeReader(f"{piece.arrays}.cards") as cards_file,
        RangeReader(f"{piece.arrays}.signatures") as signature_file,
    ):
        for begin in range(0, piece.rows, _ROWS):
            end = min(begin + _ROWS, piece.rows)
            documents = np.arange(piece.base + begin, piece.base + end, dtype=np.uint64)
            cards = read_rows(cards_file, np.uint64, c.CARD, begin, end).astype(np.uint64, copy=False)
            signatures = read_rows(signature_file, np.uint32, permutations, begin, end)
            stays = (cards[:, c.COUNT] > 0) & ~np.isin(documents, gone)
            yield documents[stays], cards[stays], signatures[stays]  # type: ignore[misc]


def nominate_units(context: StageContext) -> Iterable[Unit]:
    yield from key_partition_units(context, "nominate", files_of(context, "bands", ".bands"))


def nominate_unit(unit: Unit, context: UnitContext) -> Counts:
    from pipeline.dedup.stars import Stars, star_pairs

    number = number_in(unit, "partition")
    corpus = corpus_of(context.config, context.inputs, context.work_root)
    files = [file for piece in corpus.pieces if exists(file := band_file(context.work_root, piece))]
    rule = Stars(corpus.new, CENTRES, False, context.config.budget)
    pairs_found = 0
    with (
        context.intermediate(f"{number:05}.pairs") as path,
        ExchangeWriter(path, 2, corpus.blocks, context.config.budget // 4) as writer,
    ):
        size = partition_bytes(files, number)
        for pairs in star_pairs(lambda: read_partition(files, number), size, BANDED, rule, context.scratch):
            ends = pairs[:, [DOCUMENT, BANDED + DOCUMENT]]
            writer.add(ends, corpus.block_of(ends[:, 0]))
            pairs_found += len(ends)
    if context.config.levels:
        _nominate_own(number, corpus, rule, context)
    context.metrics["nominations"] = float(pairs_found)
    return Counts()


def _nominate_own(number: int, corpus: Corpus, rule: "Stars", context: UnitContext) -> None:
    """Pairs by the keys of other packages' levels, with the level: ``nominate/<p>.own``."""
    from pipeline.dedup.stars import star_pairs

    files = [file for piece in corpus.pieces if exists(file := own_file(context.work_root, piece))]
    with (
        context.intermediate(f"{number:05}.own") as path,
        ExchangeWriter(path, OWN, corpus.blocks, context.config.budget // 4) as writer,
    ):
        size = partition_bytes(files, number)
        for pairs in star_pairs(lambda: read_partition(files, number), size, KEYED, rule, context.scratch):
            writer.add(pairs[:, [DOCUMENT, KEYED + DOCUMENT, LEVEL]], corpus.block_of(pairs[:, DOCUMENT]))


def nominated_partitions(context: StageContext) -> int:
    files = files_of(context, "bands", ".bands")
    return partitions_of(files[0]) if files else 0
